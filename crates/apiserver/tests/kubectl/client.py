"""The API server through the Python client: list, watch, patch, apply, and errors. Usage: client.py KUBECONFIG"""

import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException

config.load_kube_config(sys.argv[1])
core, apps, version = client.CoreV1Api(), client.AppsV1Api(), client.VersionApi()
container = {"name": "web", "image": "nginx"}


def step(name):
    print(name, flush=True)


def refused(status, call, *args, **options):
    try:
        call(*args, **options)
    except ApiException as error:
        assert error.status == status, error
        return
    raise AssertionError(f"{call.__name__} was not refused")


step("versions")
assert version.get_code().git_version.startswith("v1.")
assert "apps" in [group.name for group in client.ApisApi().get_api_versions().groups]
assert any(kind.name == "deployments/scale" for kind in apps.get_api_resources().resources)

step("create, read, list")
for number in range(25):
    core.create_namespaced_config_map("default", {"metadata": {"name": f"cm-{number:02}", "labels": {"odd": str(number % 2)}}, "data": {"n": str(number)}})
assert core.read_namespaced_config_map("cm-07", "default").data == {"n": "7"}
assert len(core.list_namespaced_config_map("default", label_selector="odd=1").items) == 12
assert [c.metadata.name for c in core.list_namespaced_config_map("default", field_selector="metadata.name=cm-03").items] == ["cm-03"]
seen, token = [], None
while True:
    page = core.list_namespaced_config_map("default", limit=10, _continue=token, label_selector="odd")
    seen += [c.metadata.name for c in page.items]
    token = page.metadata._continue
    if not token:
        break
assert seen == [f"cm-{n:02}" for n in range(25)], seen

step("watch")
start = core.list_namespaced_pod("default").metadata.resource_version
events, ready = [], threading.Event()


def observe():
    ready.set()
    for event in watch.Watch().stream(core.list_namespaced_pod, "default", resource_version=start, timeout_seconds=20):
        events.append((event["type"], event["object"].metadata.name, (event["object"].metadata.labels or {}).get("step")))
        if event["type"] == "DELETED":
            return


thread = threading.Thread(target=observe)
thread.start()
ready.wait()
core.create_namespaced_pod("default", {"metadata": {"name": "web", "labels": {"step": "0"}}, "spec": {"containers": [container]}})
core.patch_namespaced_pod("web", "default", {"metadata": {"labels": {"step": "1"}}})
core.delete_namespaced_pod("web", "default", grace_period_seconds=0)
thread.join(30)
assert events == [("ADDED", "web", "0"), ("MODIFIED", "web", "1"), ("DELETED", "web", "1")], events

step("patch, scale, replace")
labels = {"app": "web"}
deployment = {"metadata": {"name": "web"}, "spec": {"replicas": 1, "selector": {"matchLabels": labels},
              "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}
apps.create_namespaced_deployment("default", deployment)
env = {"spec": {"template": {"spec": {"containers": [{"name": "web", "env": [{"name": "A", "value": "1"}]}]}}}}
patched = apps.patch_namespaced_deployment("web", "default", env)
assert patched.spec.template.spec.containers[0].image == "nginx"
assert patched.spec.template.spec.containers[0].env[0].value == "1"
patched = apps.patch_namespaced_deployment("web", "default", [{"op": "replace", "path": "/spec/replicas", "value": 4}])
assert patched.spec.replicas == 4
scale = apps.read_namespaced_deployment_scale("web", "default")
scale.spec.replicas = 2
assert apps.replace_namespaced_deployment_scale("web", "default", scale).spec.replicas == 2
current = apps.read_namespaced_deployment("web", "default")
stale = apps.read_namespaced_deployment("web", "default")
current.spec.replicas = 3
assert apps.replace_namespaced_deployment("web", "default", current).spec.replicas == 3
refused(409, apps.replace_namespaced_deployment, "web", "default", stale)

step("server-side apply")
dyn = dynamic.DynamicClient(client.ApiClient())
services = dyn.resources.get(api_version="v1", kind="Service")
service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": labels, "ports": [{"port": 80}]}}
made = services.server_side_apply(body=service, namespace="default", field_manager="one")
assert made.spec.ports[0].port == 80
other = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}, "spec": {"selector": {"app": "other"}, "ports": [{"port": 80}]}}
refused(409, services.server_side_apply, body=other, namespace="default", field_manager="two")
forced = services.server_side_apply(body=other, namespace="default", field_manager="two", force_conflicts=True)
assert forced.spec.selector["app"] == "other"
managers = {m.manager for m in services.get(name="web", namespace="default").metadata.managedFields}
assert managers >= {"one", "two"}, managers

step("errors")
refused(404, core.read_namespaced_pod, "nobody", "default")
refused(409, core.create_namespaced_config_map, "default", {"metadata": {"name": "cm-00"}})
refused(422, core.create_namespaced_pod, "default", {"metadata": {"name": "Bad_Name"}, "spec": {"containers": []}})
refused(404, core.create_namespaced_config_map, "nowhere", {"metadata": {"name": "x"}})

step("all well")

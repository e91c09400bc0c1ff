"""An independent client against a whole lab: list, watch, patch, apply, exec and logs of pods that really run."""
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import stream

config.load_kube_config()
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
SPACE = "python"


def step(name):
    print(name, flush=True)


step("what a lab has")
nodes = {node.metadata.name: node for node in core.list_node().items}
assert len(nodes) == 3, nodes
for node in nodes.values():
    assert any(c.type == "Ready" and c.status == "True" for c in node.status.conditions)
cilium_nodes = custom.list_cluster_custom_object("cilium.io", "v2", "ciliumnodes")["items"]
assert {node["metadata"]["name"]: node["spec"]["ipam"]["podCIDRs"][0] for node in cilium_nodes} == {name: node.spec.pod_cidr for name, node in nodes.items()}

step("a deployment, watched until it is ready")
core.create_namespace({"metadata": {"name": SPACE}})
start = core.list_namespaced_pod(SPACE).metadata.resource_version
seen, versions, ready = [], [], set()


def observe():
    for event in watch.Watch().stream(core.list_namespaced_pod, SPACE, resource_version=start, timeout_seconds=30):
        pod = event["object"]
        seen.append(event["type"])
        versions.append(int(pod.metadata.resource_version))
        if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions or []):
            ready.add((pod.metadata.name, pod.status.pod_ip))
        if len(ready) == 3:
            return


thread = threading.Thread(target=observe)
thread.start()
labels = {"app": "web"}
container = {"name": "web", "image": "traefik/whoami"}
deployment = {"metadata": {"name": "web"}, "spec": {"replicas": 3, "selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"containers": [container]}}}}
apps.create_namespaced_deployment(SPACE, deployment)
thread.join(40)
assert len(ready) == 3 and len({ip for _, ip in ready}) == 3, ready
assert seen.count("ADDED") == 3 and versions == sorted(versions), (seen, versions)

step("patch and server-side apply")
patched = apps.patch_namespaced_deployment("web", SPACE, {"metadata": {"annotations": {"note": "x"}}})
assert patched.metadata.annotations["note"] == "x" and patched.spec.replicas == 3
scaled = apps.patch_namespaced_deployment_scale("web", SPACE, {"spec": {"replicas": 2}})
assert scaled.spec.replicas == 2
maps = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version="v1", kind="ConfigMap")
body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"a": "1"}}
maps.server_side_apply(body=body, namespace=SPACE, field_manager="one")
try:
    maps.server_side_apply(body={**body, "data": {"a": "2"}}, namespace=SPACE, field_manager="two")
    raise AssertionError("a conflict was not refused")
except ApiException as error:
    assert error.status == 409, error

step("exec and logs")
pod = {"metadata": {"name": "talks"}, "spec": {"containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "echo spoken; sleep 1000"]}], "terminationGracePeriodSeconds": 0}}
core.create_namespaced_pod(SPACE, pod)
for event in watch.Watch().stream(core.list_namespaced_pod, SPACE, field_selector="metadata.name=talks", timeout_seconds=30):
    if event["object"].status.phase == "Running":
        break
said = stream(core.connect_get_namespaced_pod_exec, "talks", SPACE, command=["sh", "-c", "echo hello $((6*7))"], stdout=True, stderr=True, stdin=False, tty=False)
assert said == "hello 42\n", repr(said)
assert core.read_namespaced_pod_log("talks", SPACE) == "spoken\n"

step("everything goes")
core.delete_namespace(SPACE)
for _ in range(300):
    try:
        core.read_namespace(SPACE)
    except ApiException as error:
        assert error.status == 404, error
        break
    threading.Event().wait(0.1)
else:
    raise AssertionError("the namespace stays")
assert core.list_namespaced_pod(SPACE).items == []

step("all well")

//! Verbs that reach into containers.

use super::Parts;
use super::shell::Shell;

pub fn all(sh: &Shell, parts: &mut Parts) {
    parts.run("inside containers: exec", || exec(sh));
    parts.run("inside containers: run and attach", || run_and_attach(sh));
    parts.run("inside containers: logs", || logs(sh));
    parts.run("inside containers: copies", || copies(sh));
    parts.run("inside containers: forwards", || forwards(sh));
    parts.run("inside containers: waits", || waits(sh));
}

/// The container's terminal is as large as the person's, whenever that changes.
fn resizes(sh: &Shell) {
    let inside = "for size in '30 100' '50 133' '30 100'; do until [ \"$(stty size)\" = \"$size\" ]; do sleep 0.05; done; done; echo followed";
    sh.file("inside.sh", inside);
    sh.file(
        "resize.sh",
        "here=$(tty)\nstty rows 30 cols 100\n\
         (while sleep 0.2; do stty -F $here rows 50 cols 133; sleep 0.2; stty -F $here rows 30 cols 100; done) &\n\
         kubectl exec -it curl-pod -- sh -c \"$(cat inside.sh)\"\nkill $!\n",
    );
    sh.has(&at_a_terminal("bash resize.sh"), &["followed"]);
}

/// A command line as if typed at a terminal.
fn at_a_terminal(line: &str) -> String {
    format!("script -qec \"{line}\" /dev/null")
}

fn exec(sh: &Shell) {
    assert_eq!(sh.ok("kubectl exec curl-pod -- hostname"), "curl-pod\n");
    sh.has("kubectl exec deploy/webpod -- hostname", &["webpod-"]);
    sh.fails(
        "kubectl exec curl-pod -- sh -c 'exit 7'; test $? -eq 7 && exit 1",
        &["command terminated with exit code 7"],
    );
    assert_eq!(
        sh.ok("echo words | kubectl exec -i curl-pod -- tr a-z A-Z"),
        "WORDS\n"
    );
    sh.has(
        &at_a_terminal("kubectl exec -it curl-pod -- sh -c 'tty; stty size'"),
        &["/dev/pts/"],
    );
    resizes(sh);
    // A shell in which somebody types.
    let typed = format!(
        "(sleep 0.3; echo 'echo $((6*7)) on $(hostname)'; sleep 0.3; echo exit) | {}",
        at_a_terminal("kubectl exec -it curl-pod -- sh")
    );
    sh.has(&typed, &["42 on curl-pod"]);
    sh.fails(
        "kubectl exec nobody -- true",
        &["pods \"nobody\" not found"],
    );
    sh.fails(
        "kubectl exec curl-pod -c other -- true",
        &["container other"],
    );
    sh.fails(
        "kubectl exec curl-pod -- no-such-program",
        &["no-such-program"],
    );
}

fn run_and_attach(sh: &Shell) {
    // However short the command: its output comes, once.
    for command in [
        "echo said",
        "sh -c 'echo said; cat'",
        "sh -c 'echo said; sleep 1'",
    ] {
        let said = sh.has(
            &format!(
                "kubectl run once --image=busybox --restart=Never -i --rm -- {command} </dev/null"
            ),
            &["pod \"once\" deleted"],
        );
        assert_eq!(said.matches("said").count(), 1, "{command}: {said}");
    }
    sh.has("kubectl run talker --image=busybox --restart=Never -- sh -c 'while sleep 0.1; do echo tick; done'", &["pod/talker created"]);
    sh.ok("kubectl wait --for=condition=Ready pod/talker --timeout=15s");
    let attached = sh.start("kubectl attach talker");
    attached.says("tick\ntick\n");
    drop(attached);
    sh.file("echoes.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: echoes}\nspec: {containers: [{name: c, image: busybox, command: [cat], stdin: true}]}\n");
    sh.ok("kubectl apply -f echoes.yaml && kubectl wait --for=condition=Ready pod/echoes --timeout=15s");
    let typed = sh.start("(for i in 1 2 3 4 5; do echo to the container; sleep 0.1; done; sleep 5) | kubectl attach -i echoes");
    typed.says("to the container\n");
    drop(typed);
    sh.ok("kubectl delete pod echoes --now");
}

fn logs(sh: &Shell) {
    let follow = sh.start("kubectl logs -f talker --tail=1");
    follow.says("tick\ntick\ntick\n");
    drop(follow);
    assert_eq!(sh.ok("kubectl logs talker --tail=2"), "tick\ntick\n");
    let stamped = sh.ok("kubectl logs talker --tail=1 --timestamps");
    assert!(
        stamped.starts_with("20") && stamped.trim_end().ends_with("Z tick"),
        "{stamped}"
    );
    sh.has("kubectl logs talker --since=5s", &["tick"]);
    sh.ok("kubectl delete pod talker --now");
    sh.ok("kubectl run ends --image=busybox --restart=OnFailure -- sh -c 'echo first words; test -e /data/x || exit 3'");
    sh.until("kubectl logs ends --previous", &["first words"]);
    sh.until("kubectl get pod ends", &["CrashLoopBackOff"]);
    sh.has("kubectl describe pod ends", &["Exit Code:    3", "BackOff"]);
    sh.ok("kubectl delete pod ends --now");
    sh.has(
        "kubectl logs -l app=webpod --prefix --tail=1 --all-containers",
        &[],
    );
    sh.fails("kubectl logs nobody", &["pods \"nobody\" not found"]);
}

fn copies(sh: &Shell) {
    sh.file("note.txt", "some words\n");
    sh.ok("mkdir -p many/sub && cp note.txt many/sub/ && seq 20000 > many/numbers");
    sh.ok(
        "kubectl cp note.txt curl-pod:/tmp/note.txt && kubectl cp many default/curl-pod:/tmp/many",
    );
    assert_eq!(
        sh.ok("kubectl exec curl-pod -- cat /tmp/note.txt /tmp/many/sub/note.txt"),
        "some words\nsome words\n"
    );
    sh.ok("kubectl cp curl-pod:/tmp/many back && diff -r many back");
}

fn forwards(sh: &Shell) {
    for target in [
        "pod/$(kubectl get pod -l app=webpod -o jsonpath='{.items[0].metadata.name}')",
        "deploy/webpod",
        "svc/webpod",
    ] {
        let forward = sh.start(&format!("kubectl port-forward {target} :80"));
        let said = forward.says("Forwarding from 127.0.0.1:");
        let port = said
            .split("127.0.0.1:")
            .nth(1)
            .and_then(|rest| rest.split(' ').next());
        let port = port.unwrap_or_else(|| panic!("no port in {said}"));
        sh.has(
            &format!(
                "curl -s --max-time 5 localhost:{port} && curl -s --max-time 5 localhost:{port}/"
            ),
            &["Hostname: webpod-"],
        );
    }
    let closed = sh.start("kubectl port-forward curl-pod 18999:81");
    closed.says("Forwarding from 127.0.0.1:18999");
    sh.fails("curl -s --max-time 5 localhost:18999", &[]);
    closed.says("refused");
}

fn waits(sh: &Shell) {
    sh.has(
        "kubectl wait --for=condition=Ready pod -l app=webpod --timeout=15s",
        &["condition met"],
    );
    sh.has(
        "kubectl wait --for=jsonpath='{.status.phase}'=Running pod/curl-pod --timeout=15s",
        &["condition met"],
    );
    sh.fails(
        "kubectl wait --for=condition=Nothing pod/curl-pod --timeout=1s",
        &["timed out waiting for the condition"],
    );
    sh.ok("kubectl run goes --image=busybox --restart=Never -- sleep 1000");
    sh.has("(sleep 0.3; kubectl delete pod goes --now >/dev/null) & kubectl wait --for=delete pod/goes --timeout=15s; wait", &[]);
}

/// A representative part, with the old release, which speaks SPDY.
pub fn old(sh: &Shell) {
    assert_eq!(sh.ok("kubectl exec curl-pod -- hostname"), "curl-pod\n");
    assert_eq!(
        sh.ok("echo words | kubectl exec -i curl-pod -- tr a-z A-Z"),
        "WORDS\n"
    );
    sh.has(
        &at_a_terminal("kubectl exec -it curl-pod -- tty"),
        &["/dev/pts/"],
    );
    resizes(sh);
    sh.file("old.txt", "old words\n");
    sh.ok("kubectl cp old.txt curl-pod:/tmp/old.txt && kubectl cp curl-pod:/tmp/old.txt back.txt && cmp old.txt back.txt");
    let forward = sh.start("kubectl port-forward deploy/webpod :80");
    let said = forward.says("Forwarding from 127.0.0.1:");
    let port = said
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|rest| rest.split(' ').next())
        .unwrap()
        .to_owned();
    sh.has(
        &format!("curl -s --max-time 5 localhost:{port}"),
        &["Hostname: webpod-"],
    );
    drop(forward);
    let said = sh.has(
        "kubectl run once --image=busybox --restart=Never -i --rm -- echo said </dev/null",
        &["pod \"once\" deleted"],
    );
    assert_eq!(said.matches("said").count(), 1, "{said}");
    sh.ok("kubectl run old-talker --image=busybox --restart=Never -- sh -c 'while sleep 0.1; do echo tick; done'");
    sh.ok("kubectl wait --for=condition=Ready pod/old-talker --timeout=15s");
    sh.start("kubectl logs -f old-talker").says("tick\ntick\n");
    sh.start("kubectl attach old-talker").says("tick\n");
    sh.ok("kubectl delete pod old-talker --now");
}

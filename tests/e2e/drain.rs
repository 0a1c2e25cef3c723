//! Draining a node, over a restart of the agent, and the way back.

use crate::support::node::Node;
use crate::support::wait;

fn pod(name: &str, image: &str, more: &str, script: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{ name: {name} }}\nspec:\n  terminationGracePeriodSeconds: 5\n  {more}\n  containers:\n  \
         - {{ name: app, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [sh, -c, \"{script}\"] }}\n"
    )
}

#[test]
fn a_drained_node_runs_nothing_until_that_is_undone_and_needs_no_network_then() {
    let mut node = Node::start();
    let (_, image) = node.busybox();
    let shared = node.path("shared");
    std::fs::create_dir(&shared).unwrap();
    // Each notes when it was asked to end; the important one is asked last.
    let note = |name: &str| format!("trap 'echo {name} >> {}/order; exit 0' TERM; sleep 1000 & wait", "/shared");
    let volume = format!("volumes: [{{ name: v, hostPath: {{ path: {} }} }}]", shared.display());
    let mounted = |text: String| text.replace("command:", "volumeMounts: [{ name: v, mountPath: /shared }], command:");
    node.manifest(
        "a-critical.yaml",
        &mounted(pod(
            "critical",
            &image,
            &format!("priorityClassName: system-node-critical\n  {volume}"),
            &note("critical"),
        )),
    );
    node.manifest("web.yaml", &mounted(pod("web", &image, &volume, &note("web"))));
    node.manifest("done.yaml", &pod("done", &image, "restartPolicy: Never", "exit 0"));
    node.running("critical");
    node.running("web");
    let done = node.until("done", "done", |p| p["status"]["phase"] == "Succeeded");

    let once = node.lamina(&["run", "-d", "--name", "once", &image, "--", "sleep", "1000"]);
    assert_eq!(once.status, 0, "{}", once.err);
    node.running("once");
    let refused = node.lamina(&["drain"]);
    assert!(refused.status == 1 && refused.err.contains("once") && refused.err.contains("--force"), "{}", refused.err);
    assert!(node.ok(&["info"]).lines().any(|l| l.split_whitespace().eq(["drained", "no"])));

    let said = node.lamina(&["drain", "--force"]);
    assert!(said.status == 0 && said.out.contains("lamina drain --undo"), "{}{}", said.out, said.err);
    assert!(said.err.contains("pod default/web is stopped"), "{}", said.err);
    assert_eq!(std::fs::read_to_string(shared.join("order")).unwrap(), "web\ncritical\n");
    let names = |node: &Node| {
        let pods = node.json(&["get", "pods"]);
        pods["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|p| p["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&node), ["done"], "what has ended is left alone");
    // Whatever the image came from is gone, and the agent with it for a while.
    std::fs::remove_dir_all(node.path("images")).unwrap();
    node.kill_agent();
    node.start_agent();
    node.manifest("new.yaml", &pod("new", &image, "", "sleep 1000"));
    wait("the new manifest is read", || {
        node.lamina(&["get", "manifests", "new"]).out.contains("new.yaml").then_some(())
    });
    assert_eq!(names(&node), ["done"]);
    assert!(!node.layers().is_empty(), "the images of what was stopped are held");
    assert!(node.ok(&["why", &image]).contains("drain"), "{}", node.ok(&["why", &image]));
    assert!(node.ok(&["info"]).contains("since "), "{}", node.ok(&["info"]));
    assert!(node.ok(&["describe", "pod/done"]).contains("drained"));
    let run = node.lamina(&["run", "--rm", &image, "--", "true"]);
    assert!(run.status == 125 && run.err.contains("drained"), "{} {}", run.status, run.err);

    node.ok(&["drain", "--undo"]);
    for name in ["critical", "web", "new"] {
        node.running(name);
    }
    assert_eq!(node.pod("done").unwrap()["metadata"]["uid"], done["metadata"]["uid"]);
    let events = node.ok(&["get", "events", "-A"]);
    assert!(events.contains("Drained") && events.contains("Undrained"), "{events}");
    wait("only the pods hold the image", || (!node.ok(&["why", &image]).contains("drain")).then_some(()));
    assert_eq!(node.ok(&["drain", "--undo"]), "the node was not drained\n");
    node.finish();
}

//! The acts of the demo, in order; each says what it shows, shows it, and checks it.

use anyhow::Context as _;
use serde_json::Value;

use super::scene::Scene;

/// Two pods: a game server with a helper beside it, and a second server of the same image.
fn arena(game: &str, base: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: arena\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  \
         - name: game\n    image: {game}\n    imagePullPolicy: IfNotPresent\n  - name: watch\n    image: {base}\n    \
         imagePullPolicy: IfNotPresent\n    command: [sleep, infinity]\n"
    )
}

fn second(game: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: second\nspec:\n  terminationGracePeriodSeconds: 2\n  containers:\n  \
         - name: game\n    image: {game}\n    imagePullPolicy: IfNotPresent\n"
    )
}

const FETCHED: &str = "lamina_image_pull_bytes_total{kind=\"fetched\"}";
const FREED: &str = "lamina_gc_freed_layers_total{trigger=\"release\"}";

/// Plays everything.
pub(super) fn all(scene: &mut Scene) -> anyhow::Result<()> {
    let (game1, game2) = (scene.images.name("game:1"), scene.images.name("game:2"));
    let base = scene.images.name("base:1");
    share(scene, &game1, &base)?;
    private(scene)?;
    heal(scene)?;
    replace(scene, &game2, &base)?;
    free(scene)?;
    empty(scene)?;
    let (db, shop) = (scene.images.name("db:1"), scene.images.name("shop:1"));
    two_tiers(scene, &db, &shop)?;
    let claims = scene.claims();
    scene.tell(&format!("\nall {claims} claims hold"))
}

/// An app and its database, as a cluster would be given them.
fn shop(db: &str, shop: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: db\nspec:\n  selector: {{app: db}}\n  ports: [{{port: 5432}}]\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: db\nspec:\n  selector: {{matchLabels: {{app: db}}}}\n  \
         template:\n    metadata: {{labels: {{app: db}}}}\n    spec:\n      terminationGracePeriodSeconds: 2\n      \
         volumes: [{{name: data, emptyDir: {{}}}}]\n      containers:\n      - name: db\n        image: {db}\n        \
         imagePullPolicy: IfNotPresent\n        volumeMounts: [{{name: data, mountPath: /data}}]\n        \
         readinessProbe: {{tcpSocket: {{port: 5432}}, periodSeconds: 1}}\n\
         ---\napiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: shop\nspec:\n  selector: {{matchLabels: {{app: shop}}}}\n  \
         template:\n    metadata: {{labels: {{app: shop}}}}\n    spec:\n      terminationGracePeriodSeconds: 2\n      containers:\n      \
         - name: shop\n        image: {shop}\n        imagePullPolicy: IfNotPresent\n        \
         env: [{{name: DB_HOST, value: db}}]\n        \
         readinessProbe: {{exec: {{command: [test, -e, /tmp/ready]}}, periodSeconds: 1}}\n"
    )
}

/// What is known of a container: its process, and how often it was restarted.
fn container(scene: &Scene, pod: &str, name: &str) -> anyhow::Result<Option<(u64, u64)>> {
    let containers = scene.json(&["get", "containers"])?;
    let ours = |c: &&Value| c["spec"]["pod"] == pod && c["spec"]["container"] == name;
    let Some(found) = containers["items"].as_array().and_then(|all| all.iter().find(ours)) else { return Ok(None) };
    let Some(pid) = found["status"]["pid"].as_u64() else { return Ok(None) };
    Ok(Some((pid, found["status"]["restartCount"].as_u64().unwrap_or(0))))
}

fn running(scene: &Scene, pod: &str, name: &str) -> anyhow::Result<(u64, u64)> {
    container(scene, pod, name)?.with_context(|| format!("container {name} of pod {pod} does not run"))
}

fn share(scene: &mut Scene, game: &str, base: &str) -> anyhow::Result<()> {
    scene.act("1. Declared in plain YAML, pulled once, shared")?;
    scene.declare("arena.yaml", &arena(game, base))?;
    scene.show(&["wait", "pod/arena", "--for=ready", "--timeout", "30s"])?;
    let first = scene.metric(FETCHED)?;
    scene.declare("second.yaml", &second(game))?;
    scene.show(&["wait", "pod/second", "--for=ready", "--timeout", "30s"])?;
    scene.show(&["get", "pods"])?;
    let logs = ["logs", "arena", "-c", "game"];
    scene.until("the game server has started", |s| Ok(!s.quiet(&logs)?.is_empty()))?;
    scene.show(&logs)?;
    scene.tell("What was fetched, and what was already there:")?;
    scene.show(&["history", game])?;
    scene.show(&["get", "layers"])?;
    scene.claim(scene.layers()?.len() == 3, "two images, three containers, three layers: each is stored once")?;
    let again = scene.metric(FETCHED)?;
    scene.claim((again - first).abs() < 1.0, "the second pod fetched no byte of any layer")
}

fn private(scene: &mut Scene) -> anyhow::Result<()> {
    scene.act("2. One image, two containers, two private writable layers")?;
    for pod in ["arena", "second"] {
        scene.show(&["exec", pod, "-c", "game", "--", "sh", "-c", &format!("echo {pod} >/srv/game/version")])?;
    }
    scene.show(&["exec", "arena", "-c", "game", "--", "cat", "/srv/game/version"])?;
    scene.show(&["exec", "second", "-c", "game", "--", "cat", "/srv/game/version"])?;
    scene.show(&["diff", "second"])?;
    let read = |pod: &str| scene.quiet(&["exec", pod, "-c", "game", "--", "cat", "/srv/game/version"]);
    let both = (read("arena")?, read("second")?);
    scene.claim(both == ("arena\n".into(), "second\n".into()), "each container sees its own write to the same path")
}

fn heal(scene: &mut Scene) -> anyhow::Result<()> {
    scene.act("3. What dies comes back")?;
    let (pid, restarts) = running(scene, "second", "game")?;
    scene.tell(&format!("$ kill -9 {pid}"))?;
    let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
    rustix::process::kill_process(target, rustix::process::Signal::KILL)?;
    scene.until("the container is back", |s| {
        Ok(container(s, "second", "game")?.is_some_and(|(new, count)| new != pid && count == restarts + 1))
    })?;
    scene.show(&["get", "pods"])?;
    let version = scene.quiet(&["exec", "second", "--", "cat", "/srv/game/version"])?;
    scene.claim(version == "1\n", "the container is back, with a fresh writable layer")
}

fn replace(scene: &mut Scene, game: &str, base: &str) -> anyhow::Result<()> {
    scene.act("4. A new version: only the small layer is fetched, only that container is replaced")?;
    let before = scene.metric(FETCHED)?;
    let (game_pid, _) = running(scene, "arena", "game")?;
    let (watch_pid, _) = running(scene, "arena", "watch")?;
    scene.declare("arena.yaml", &arena(game, base))?;
    scene.until("the new version runs", |s| {
        let changed = container(s, "arena", "game")?.is_some_and(|(pid, _)| pid != game_pid);
        Ok(changed
            && s.quiet(&["exec", "arena", "-c", "game", "--", "cat", "/srv/game/version"]).is_ok_and(|v| v == "2\n"))
    })?;
    let logs = ["logs", "arena", "-c", "game"];
    scene.until("the game server has started", |s| Ok(s.quiet(&logs)?.contains("server 2")))?;
    scene.show(&logs)?;
    scene.show(&["get", "layers"])?;
    let fetched = scene.metric(FETCHED)? - before;
    scene.claim(fetched > 0.0 && fetched < 20_000.0, &format!("{fetched} bytes were fetched for the new version"))?;
    let kept = running(scene, "arena", "watch")?.0 == watch_pid;
    scene.claim(kept, "the container beside it kept its process")?;
    scene.claim(scene.layers()?.len() == 4, "one layer more than before")
}

fn free(scene: &mut Scene) -> anyhow::Result<()> {
    scene.act("5. A pod goes, and exactly its own layer with it")?;
    let before = scene.layers()?;
    for layer in &before {
        scene.show(&["why", layer])?;
    }
    scene.withdraw("second.yaml")?;
    scene.show(&["wait", "pod/second", "--for=deleted", "--timeout", "30s"])?;
    scene.until("its layer is freed", |s| Ok(s.layers()?.len() == before.len() - 1))?;
    scene.show(&["get", "layers"])?;
    let after = scene.layers()?;
    let kept = after.iter().all(|layer| before.contains(layer));
    scene.claim(kept && after.len() == 3, "the layer that only it used is gone; the shared ones stay")
}

fn empty(scene: &mut Scene) -> anyhow::Result<()> {
    scene.act("6. Nothing wanted, nothing kept")?;
    scene.withdraw("arena.yaml")?;
    scene.show(&["wait", "pod/arena", "--for=deleted", "--timeout", "30s"])?;
    scene.until("the store is empty", |s| Ok(s.layers()?.is_empty()))?;
    scene.show(&["df"])?;
    scene.claim(scene.layers()?.is_empty(), "every byte of every layer is free")?;
    // A collection counts when it is over, and its layers are gone a moment before.
    scene.until("the collection is counted", |s| Ok(s.metric(FREED)? > 3.5))?;
    scene.tell(&format!("$ curl -s http://127.0.0.1:{}/metrics", scene.metrics_port()))?;
    for line in scene.metric_lines(&[
        "lamina_image_pull_bytes_total",
        "lamina_gc_freed_layers_total",
        "lamina_gc_freed_bytes_total",
        "lamina_layers{",
        "lamina_container_restarts_total",
        "lamina_pods{",
    ])? {
        scene.tell(&line)?;
    }
    let freed = scene.metric(FREED)?;
    scene.claim((freed - 4.0).abs() < 0.5, "the metrics say so too: four layers were freed on release")
}

/// How often the shop was visited, by its own log.
fn visits(scene: &Scene) -> anyhow::Result<u64> {
    let log = scene.quiet(&["logs", "shop-0", "--tail", "1"])?;
    let number = log.split_once("visit ").and_then(|(_, rest)| rest.split(',').next()?.parse().ok());
    Ok(number.unwrap_or(0))
}

fn two_tiers(scene: &mut Scene, db: &str, app: &str) -> anyhow::Result<()> {
    scene.act("7. Two tiers, written for a cluster: the app finds its database by the name of a Service")?;
    scene.declare("shop.yaml", &shop(db, app))?;
    scene.until("the deployments are known", |s| {
        Ok(s.quiet(&["get", "deployments", "-o", "name"])?.lines().count() == 2)
    })?;
    scene.show(&["wait", "deployment/shop", "--for=ready", "--timeout", "30s"])?;
    scene.show(&["get", "deployments"])?;
    scene.show(&["get", "services"])?;
    scene.show(&["logs", "shop-0", "--tail", "2"])?;
    let before = visits(scene)?;
    scene.claim(before > 0, "the app reached its database by name, and the database counts")?;
    let (pid, restarts) = running(scene, "db-0", "db")?;
    scene.tell(&format!("$ kill -9 {pid}"))?;
    let target = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw).context("a process id")?;
    rustix::process::kill_process(target, rustix::process::Signal::KILL)?;
    scene.until("the database is back", |s| {
        Ok(container(s, "db-0", "db")?.is_some_and(|(new, count)| new != pid && count == restarts + 1))
    })?;
    scene.until("the app has found it again", |s| Ok(visits(s)? > before + 1))?;
    scene.show(&["logs", "shop-0", "--tail", "3"])?;
    scene.claim(visits(scene)? > before, "the database died and came back; the app went on, and no visit was lost")?;
    scene.withdraw("shop.yaml")?;
    scene.until("the store is empty", |s| Ok(s.layers()?.is_empty()))?;
    scene.claim(scene.layers()?.is_empty(), "nothing wanted, nothing kept")
}

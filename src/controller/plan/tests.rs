//! Rollouts, node by node.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::cluster::{Assignment, NodeReportSpec, NodeReportStatus, Template};

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

fn key() -> Key {
    ("arena".into(), "game".into())
}

/// A cluster in a test: nodes that do what they are told, one step at a time.
#[derive(Debug, Clone)]
struct World {
    workload: Workload,
    nodes: BTreeMap<String, Node>,
    reports: BTreeMap<String, NodeReport>,
    silent: BTreeSet<String>,
}

impl World {
    fn new(nodes: usize, most: i32) -> Self {
        let spec = NodeWorkloadSpec {
            template: Template(json!({ "spec": { "containers": [{ "name": "a", "image": "x" }] } })),
            update_strategy: serde_json::from_value(json!({ "rollingUpdate": { "maxUnavailable": most } })).unwrap(),
            min_ready_seconds: None,
            revision_history_limit: None,
            paused: None,
        };
        let named = |n: usize| {
            let mut node = Node::default();
            node.metadata.name = Some(format!("n{n}"));
            (format!("n{n}"), node)
        };
        Self {
            workload: Workload { spec, generation: 1, status: NodeWorkloadStatus::default() },
            nodes: (0..nodes).map(named).collect(),
            reports: BTreeMap::new(),
            silent: BTreeSet::new(),
        }
    }

    fn plan_with(&self, revision: &str, refused: Option<&str>) -> Plan {
        let nodes = Nodes { all: &self.nodes, reports: &self.reports, silent: &self.silent };
        plan(&key(), &self.workload, revision, refused, nodes, now())
    }

    /// Plans, and writes what is planned.
    fn step(&mut self, revision: &str) -> Plan {
        let plan = self.plan_with(revision, None);
        for name in self.nodes.keys() {
            let report =
                self.reports.entry(name.clone()).or_insert_with(|| NodeReport::new(name, NodeReportSpec::default()));
            report.spec.assignments = plan
                .assignments
                .get(name)
                .map(|revision| Assignment {
                    namespace: "arena".into(),
                    name: "game".into(),
                    revision: revision.clone(),
                })
                .into_iter()
                .collect();
        }
        self.workload.status = plan.status.clone();
        plan
    }

    /// The node starts what it is assigned, ready or not.
    fn runs(&mut self, name: &str, ready: bool) {
        let Some(report) = self.reports.get_mut(name) else { return };
        let pods = report.spec.assignments.iter().map(|a| NodePod {
            uid: format!("{name}-{}", a.revision),
            namespace: a.namespace.clone(),
            workload: a.name.clone(),
            revision: a.revision.clone(),
            ready,
            since: Some(Time(Timestamp::from_second(NOW - 5).unwrap())),
            restarts: 0,
            reason: (!ready).then(|| "CrashLoopBackOff".to_owned()),
            message: None,
        });
        report.status = Some(NodeReportStatus { pods: pods.collect(), ..NodeReportStatus::default() });
    }

    fn settle(&mut self, revision: &str) {
        for _ in 0..=self.nodes.len() {
            self.step(revision);
            for name in self.nodes.keys().cloned().collect::<Vec<_>>() {
                self.runs(&name, true);
            }
        }
        self.step(revision);
    }

    fn with(&self, revision: &str) -> usize {
        self.reports.values().filter(|r| assigned(r, &key()) == Some(revision)).count()
    }
}

fn holds(plan: &Plan, kind: &str) -> (bool, String) {
    let found = plan.status.conditions.iter().find(|c| c.type_ == kind).unwrap();
    (found.status == "True", found.reason.clone())
}

#[test]
fn all_nodes_start_at_once_and_an_update_goes_node_by_node() {
    let mut world = World::new(3, 1);
    let plan = world.step("game-1");
    assert_eq!(plan.assignments.len(), 3);
    assert_eq!(holds(&plan, "Ready"), (false, "RollingOut".into()));
    world.settle("game-1");
    let plan = world.step("game-1");
    assert_eq!(holds(&plan, "Ready"), (true, "AllAvailable".into()));
    assert_eq!((plan.status.desired_nodes, plan.status.updated_nodes, plan.status.available_nodes), (3, 3, 3));
    for done in 1..=3 {
        world.step("game-2");
        assert_eq!(world.with("game-2"), done);
        world.step("game-2");
        assert_eq!(world.with("game-2"), done, "the node that is on its way counts as not available");
        for name in ["n0", "n1", "n2"] {
            world.runs(name, true);
        }
    }
    let plan = world.step("game-2");
    assert!(holds(&plan, "Ready").0);
    assert_eq!(plan.status.current_revision.as_deref(), Some("game-2"));
}

#[test]
fn a_bad_revision_stops_at_the_nodes_it_broke_and_going_back_mends_them() {
    let mut world = World::new(4, 1);
    world.settle("game-1");
    world.step("game-2");
    world.runs("n0", false);
    for _ in 0..5 {
        world.step("game-2");
    }
    assert_eq!(world.with("game-2"), 1);
    let plan = world.step("game-2");
    assert_eq!(holds(&plan, "Degraded"), (true, "NodesFailing".into()));
    assert!(plan.status.conditions.iter().any(|c| c.message.contains("n0: CrashLoopBackOff")));
    assert_eq!(plan.status.current_revision.as_deref(), Some("game-1"));
    world.step("game-1");
    assert_eq!(world.with("game-1"), 4, "a node that is down takes it at once");
}

#[test]
fn while_paused_nodes_keep_what_they_have_and_new_ones_take_the_current_revision() {
    let mut world = World::new(2, 1);
    world.settle("game-1");
    world.workload.spec.paused = Some(true);
    let mut third = Node::default();
    third.metadata.name = Some("n2".into());
    world.nodes.insert("n2".into(), third);
    let plan = world.step("game-2");
    assert_eq!(world.with("game-1"), 3);
    assert_eq!(holds(&plan, "Progressing"), (false, "Paused".into()));
}

#[test]
fn a_template_that_cannot_run_reaches_no_node_and_says_why() {
    let mut world = World::new(2, 1);
    let refused = world.plan_with("game-1", Some("spec.template.spec: wrong"));
    assert!(refused.assignments.is_empty());
    world.settle("game-1");
    let plan = world.plan_with("game-2", Some("spec.template.spec.containers[0].image: must not be empty"));
    assert!(plan.assignments.values().all(|revision| revision == "game-1"));
    assert_eq!(holds(&plan, "Accepted"), (false, "TemplateInvalid".into()));
    assert_eq!(holds(&plan, "Stalled"), (true, "TemplateInvalid".into()));
    assert!(!holds(&plan, "Ready").0);
}

#[test]
fn silent_nodes_are_not_available_and_take_up_the_budget() {
    let mut world = World::new(3, 1);
    world.settle("game-1");
    world.silent.insert("n2".into());
    let plan = world.step("game-2");
    assert_eq!(plan.status.available_nodes, 2);
    assert_eq!(plan.assignments.values().filter(|r| *r == "game-2").count(), 1, "only the silent one");
    assert_eq!(plan.assignments["n2"], "game-2");
}

#[test]
fn a_node_is_available_once_it_has_been_ready_for_long_enough() {
    let mut world = World::new(2, 1);
    world.workload.spec.min_ready_seconds = Some(30);
    world.step("game-1");
    world.runs("n0", true);
    let plan = world.step("game-1");
    assert_eq!((plan.status.ready_nodes, plan.status.available_nodes), (1, 0));
    assert_eq!(plan.again, Some(Timestamp::from_second(NOW + 25).unwrap()));
}

#[test]
fn a_node_that_is_not_chosen_any_more_loses_its_assignment() {
    let mut world = World::new(2, 1);
    world.settle("game-1");
    world.workload.spec.template.0["spec"]["nodeSelector"] = json!({ "disk": "ssd" });
    world.nodes.get_mut("n1").unwrap().metadata.labels = Some([("disk".to_owned(), "ssd".to_owned())].into());
    let plan = world.step("game-1");
    assert_eq!(plan.assignments.keys().collect::<Vec<_>>(), ["n1"]);
    assert_eq!(plan.status.desired_nodes, 1);
}

proptest! {
    /// Whatever nodes do in whatever order, an update never takes down more than it may, and comes to its end.
    #[test]
    fn an_update_keeps_its_budget_and_ends(
        nodes in 1_usize..9,
        most in 1_i32..4,
        moves in prop::collection::vec((0_usize..9, any::<bool>()), 0..60),
    ) {
        let mut world = World::new(nodes, most);
        world.settle("game-1");
        let down = |world: &World| {
            let nodes = Nodes { all: &world.nodes, reports: &world.reports, silent: &world.silent };
            world.nodes.keys().filter(|n| !place(n, &key(), &world.workload, nodes).available(now())).count()
        };
        let mut broken = 0;
        for (node, plans) in moves {
            if plans {
                let before = down(&world);
                world.step("game-2");
                // What the update takes down, with what was down before it.
                prop_assert!(down(&world) <= before.max(usize::try_from(most).unwrap()), "{world:?}");
            } else {
                world.runs(&format!("n{}", node % nodes), true);
            }
            broken = broken.max(down(&world));
        }
        prop_assert!(broken <= usize::try_from(most).unwrap());
        world.settle("game-2");
        prop_assert_eq!(world.with("game-2"), nodes);
        let plan = world.step("game-2");
        prop_assert!(holds(&plan, "Ready").0);
    }
}

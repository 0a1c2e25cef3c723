//! The plan's properties over random graphs, and its rules one by one.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::plan::{Graph, ImageNode, LayerNode, Plan, Policy, plan};

const SECOND: Duration = Duration::from_secs(1);

fn layer(bytes: u64, held: bool, idle: u64) -> LayerNode {
    LayerNode { bytes, held, idle: SECOND * u32::try_from(idle).unwrap() }
}

fn image(layers: &[usize], held: bool, idle: u64) -> ImageNode {
    ImageNode { layers: layers.to_vec(), held, idle: SECOND * u32::try_from(idle).unwrap() }
}

fn graphs() -> impl Strategy<Value = Graph> {
    let layers = prop::collection::vec((0_u64..100, prop::bool::weighted(0.1), 0_u64..20), 0..24);
    let images = prop::collection::vec((prop::collection::vec(0_usize..1000, 0..8), any::<bool>(), 0_u64..20), 0..12);
    (layers, images).prop_map(|(layers, images)| {
        let layers: Vec<_> = layers.into_iter().map(|(bytes, held, idle)| layer(bytes, held, idle)).collect();
        let count = layers.len();
        let within = |wanted: Vec<usize>| -> Vec<usize> {
            if count == 0 { Vec::new() } else { wanted.into_iter().map(|n| n % count).collect() }
        };
        let images = images.into_iter().map(|(wanted, held, idle)| image(&within(wanted), held, idle)).collect();
        Graph { layers, images }
    })
}

fn policies() -> impl Strategy<Value = Policy> {
    (0_u64..20, 0_u64..20, prop_oneof![Just(0), 0_u64..2000]).prop_map(|(grace, age, need)| Policy {
        grace: Duration::from_secs(grace),
        image_age: Duration::from_secs(age),
        need,
    })
}

/// Layers that a root reaches.
fn reachable(graph: &Graph) -> BTreeSet<usize> {
    let direct = (0..graph.layers.len()).filter(|&n| graph.layers[n].held);
    direct.chain(graph.images.iter().filter(|image| image.held).flat_map(|image| image.layers.clone())).collect()
}

proptest! {
    #[test]
    fn nothing_reachable_is_ever_removed(graph in graphs(), policy in policies()) {
        let Plan { images, layers, .. } = plan(&graph, policy);
        prop_assert!(images.iter().all(|&n| !graph.images[n].held));
        let kept = reachable(&graph);
        prop_assert!(layers.iter().all(|n| !kept.contains(n)));
    }

    #[test]
    fn everything_unreachable_goes_at_once_without_a_policy(graph in graphs()) {
        let Plan { images, layers, bytes, next_due } = plan(&graph, Policy::default());
        let kept = reachable(&graph);
        let want: Vec<usize> = (0..graph.layers.len()).filter(|n| !kept.contains(n)).collect();
        prop_assert_eq!(bytes, want.iter().map(|&n| graph.layers[n].bytes).sum::<u64>());
        prop_assert_eq!(layers, want);
        let want: Vec<usize> = (0..graph.images.len()).filter(|&n| !graph.images[n].held).collect();
        prop_assert_eq!(images, want);
        prop_assert_eq!(next_due, None);
    }

    #[test]
    fn an_image_that_stays_keeps_all_its_layers(graph in graphs(), policy in policies()) {
        let Plan { images, layers, .. } = plan(&graph, policy);
        for (n, image) in graph.images.iter().enumerate().filter(|(n, _)| !images.contains(n)) {
            prop_assert!(image.layers.iter().all(|layer| !layers.contains(layer)), "image {}", n);
        }
    }

    #[test]
    fn pressure_is_met_or_all_that_can_go_is_gone(graph in graphs(), policy in policies()) {
        let with = plan(&graph, policy);
        let most = plan(&graph, Policy::default());
        prop_assert!(with.bytes >= policy.need.min(most.bytes));
    }

    #[test]
    fn without_pressure_nothing_goes_before_its_time(graph in graphs(), policy in policies()) {
        let policy = Policy { need: 0, ..policy };
        let Plan { images, layers, .. } = plan(&graph, policy);
        prop_assert!(images.iter().all(|&n| graph.images[n].idle >= policy.grace.max(policy.image_age)));
        prop_assert!(layers.iter().all(|&n| graph.layers[n].idle >= policy.grace));
    }

    #[test]
    fn a_sweep_that_is_awaited_has_something_to_do(graph in graphs(), policy in policies()) {
        let policy = Policy { need: 0, ..policy };
        let first = plan(&graph, policy);
        let Some(wait) = first.next_due else { return Ok(()) };
        prop_assert!(wait > Duration::ZERO);
        let mut later = graph;
        later.layers.iter_mut().for_each(|layer| layer.idle += wait);
        later.images.iter_mut().for_each(|image| image.idle += wait);
        let second = plan(&later, policy);
        prop_assert!(second.images.len() + second.layers.len() > first.images.len() + first.layers.len());
    }
}

#[test]
fn a_shared_layer_stays_with_its_other_image() {
    let graph = Graph {
        layers: vec![layer(10, false, 5), layer(1, false, 5), layer(2, false, 5)],
        images: vec![image(&[0, 1], true, 0), image(&[0, 2], false, 5)],
    };
    let plan = plan(&graph, Policy::default());
    assert_eq!((plan.images, plan.layers, plan.bytes), (vec![1], vec![2], 2));
}

#[test]
fn pressure_takes_the_longest_idle_first_and_no_more_than_it_must() {
    let graph = Graph {
        layers: vec![layer(5, false, 1), layer(5, false, 9), layer(5, false, 4)],
        images: vec![image(&[0], false, 1), image(&[1], false, 9), image(&[2], false, 4)],
    };
    let policy = Policy { image_age: SECOND * 3600, need: 6, ..Policy::default() };
    let plan = plan(&graph, policy);
    assert_eq!((plan.images, plan.bytes), (vec![1, 2], 10));
}

#[test]
fn pressure_spares_an_image_whose_end_would_free_nothing() {
    let graph = Graph {
        layers: vec![layer(5, false, 9), layer(5, false, 4)],
        images: vec![image(&[0], true, 0), image(&[0], false, 9), image(&[1], false, 4)],
    };
    let policy = Policy { image_age: SECOND * 3600, need: 5, ..Policy::default() };
    assert_eq!(plan(&graph, policy).images, vec![2]);
}

#[test]
fn an_image_with_one_layer_twice_is_counted_right() {
    let graph = Graph { layers: vec![layer(5, false, 9)], images: vec![image(&[0, 0], false, 9)] };
    let plan = plan(&graph, Policy::default());
    assert_eq!((plan.images, plan.layers, plan.bytes), (vec![0], vec![0], 5));
}

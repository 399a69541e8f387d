//! Links that are cut and mended under load.

use crate::{
    faults::{PUTS, ids},
    fleet::Fleet,
    load::{Load, back, connect, missed, until_seen},
    namespaces::{self, Own},
    survival::runtime,
};

#[test]
fn links_fail_one_after_the_other_under_load() {
    if !namespaces::inside("partitions::links_fail_one_after_the_other_under_load", Own::Networks) {
        return;
    }
    let fleet = Fleet::start_in(namespaces::create(3));
    let nodes = ids();
    let load = Load::start(fleet.cluster_file());
    runtime().block_on(async {
        let client = connect(&fleet.cluster_file()).await;
        load.goes_on(PUTS).await;

        // Out of everybody's reach.
        fleet.namespace(0).unplug();
        missed(&client, &nodes, nodes[0]).await;
        load.goes_on(PUTS).await;
        fleet.namespace(0).plug();
        back(&client, &nodes, nodes[0]).await;

        // Two that cannot reach each other, though everybody else can reach both: one way, then both.
        let (two, three) = (fleet.namespace(1), fleet.namespace(2));
        two.lose_to(three);
        until_seen(&client, nodes[1], nodes[2], false).await;
        load.goes_on(PUTS).await;
        three.lose_to(two);
        until_seen(&client, nodes[2], nodes[1], false).await;
        load.goes_on(PUTS).await;
        two.restore_to(three);
        three.restore_to(two);
        back(&client, &nodes, nodes[1]).await;

        // It hears the others, and is not heard.
        let one = fleet.namespace(0);
        one.lose_to(two);
        one.lose_to(three);
        missed(&client, &nodes, nodes[0]).await;
        load.goes_on(PUTS).await;
        one.restore_to(two);
        one.restore_to(three);
        back(&client, &nodes, nodes[0]).await;

        let written = load.stop();
        written.check(&client, &nodes).await;
    });
}

//! Nodes that are killed, hang and are restarted, one after the other, under load.

use dynkv_ring::NodeId;
use dynkv_tests::cluster::id;

use crate::{
    fleet::Fleet,
    load::{Load, back, connect, missed},
    survival::runtime,
};

/// Puts that must be acknowledged while a node is down.
pub(crate) const PUTS: usize = 100;

pub(crate) fn ids() -> [NodeId; 3] {
    ["n1", "n2", "n3"].map(id)
}

#[test]
fn nodes_fail_one_after_the_other_under_load() {
    let mut fleet = Fleet::start();
    let nodes = ids();
    let load = Load::start(fleet.cluster_file());
    let runtime = runtime();
    let client = runtime.block_on(connect(&fleet.cluster_file()));
    runtime.block_on(load.goes_on(PUTS));

    // A power cut, and back at another port.
    fleet.kill(0);
    runtime.block_on(load.goes_on(PUTS));
    fleet.start_node(0);
    runtime.block_on(back(&client, &nodes, nodes[0]));

    // It hangs, long enough to be given up.
    fleet.process(1).signal("STOP");
    runtime.block_on(async {
        missed(&client, &nodes, nodes[1]).await;
        load.goes_on(PUTS).await;
    });
    fleet.process(1).signal("CONT");
    runtime.block_on(back(&client, &nodes, nodes[1]));

    // In order.
    fleet.process(2).terminate();
    let (status, errors) = fleet.process(2).ended();
    assert_eq!(status.code(), Some(0), "{errors}");
    fleet.nodes[2] = None;
    runtime.block_on(load.goes_on(PUTS));
    fleet.start_node(2);
    runtime.block_on(back(&client, &nodes, nodes[2]));

    // Twice, the second time while it is given what it missed; then the holder of what is left.
    fleet.kill(0);
    runtime.block_on(load.goes_on(PUTS));
    fleet.start_node(0);
    fleet.process(0).wait_for("serving");
    fleet.kill(0);
    runtime.block_on(load.goes_on(PUTS));
    fleet.start_node(0);
    runtime.block_on(back(&client, &nodes, nodes[0]));
    fleet.kill(1);
    runtime.block_on(load.goes_on(PUTS));
    fleet.start_node(1);
    runtime.block_on(back(&client, &nodes, nodes[1]));

    let written = load.stop();
    runtime.block_on(written.check(&client, &nodes));
}

//! Carrying out a plan's faults, and mending them.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use dynkv_client::{Client, Error};
use dynkv_node::storage::Space;
use dynkv_proto::{FailureCode, Feature};
use dynkv_ring::Change;
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    disk::{Snapshot, Speed},
    network::Weather,
    plan::{Fault, Kind, MemberChange, Place, Plan, What},
    report::Sightings,
    world::World,
};

/// How long an operator goes on with a change that is refused.
const REFUSED_FOR: Duration = Duration::from_secs(30);

/// What is to be done at a time, to a fault by its index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    End(usize),
    Copy(usize),
    Begin(usize),
}

/// Carries out a plan's faults.
pub(crate) struct Nemesis<'a> {
    faults: &'a [Fault],
    nodes: usize,
    /// Where the sessions' clients live.
    clients: BTreeMap<usize, IpAddr>,
    /// Who changes the members and where from, and what is under way, with the node that was killed for it.
    operator: Client,
    operator_at: IpAddr,
    changes: Vec<(Option<usize>, JoinHandle<bool>)>,
    /// By the fault that needs or made them.
    copies: BTreeMap<usize, Snapshot>,
    doubles: BTreeMap<usize, usize>,
    cuts: BTreeMap<usize, Vec<(IpAddr, IpAddr)>>,
    pub(crate) seen: Sightings,
}

impl<'a> Nemesis<'a> {
    pub(crate) fn new(
        plan: &'a Plan,
        clients: BTreeMap<usize, IpAddr>,
        (operator, operator_at): (Client, IpAddr),
    ) -> Nemesis<'a> {
        Nemesis {
            faults: &plan.faults,
            nodes: plan.nodes,
            clients,
            operator,
            operator_at,
            changes: Vec::new(),
            copies: BTreeMap::new(),
            doubles: BTreeMap::new(),
            cuts: BTreeMap::new(),
            seen: Sightings::new(),
        }
    }

    /// Works from `begin` until `until`; what has not ended by then is for [`heal`](Nemesis::heal).
    pub(crate) async fn work(&mut self, world: &mut World, begin: Instant, until: Instant) {
        let mut events: Vec<(u64, Event)> = Vec::new();
        for (index, fault) in self.faults.iter().enumerate() {
            if let What::Restore(_, age_ms) = fault.what {
                events.push((fault.at_ms.saturating_sub(age_ms), Event::Copy(index)));
            }
            events.push((fault.at_ms, Event::Begin(index)));
            events.push((fault.at_ms.saturating_add(fault.lasts_ms), Event::End(index)));
        }
        events.sort();
        for (at_ms, event) in events {
            let at = begin + Duration::from_millis(at_ms);
            if at >= until {
                break;
            }
            supervise(world, self.nodes, at).await;
            if world.lacks_feature() {
                self.sighted("refusals for want of a feature");
            }
            match event {
                Event::Copy(index) => self.copy(world, index),
                Event::Begin(index) => self.begin(world, index),
                Event::End(index) => self.end(world, index),
            }
        }
        supervise(world, self.nodes, until).await;
    }

    fn sighted(&mut self, what: &str) {
        *self.seen.entry(what.to_owned()).or_default() += 1;
    }

    fn copy(&mut self, world: &World, index: usize) {
        if let What::Restore(node, _) = self.faults[index].what {
            self.copies.insert(index, world.hosts[node].disk.snapshot());
        }
    }

    fn begin(&mut self, world: &mut World, index: usize) {
        let fault = &self.faults[index];
        let kind = fault.what.kind();
        let needs_process = matches!(kind, Kind::Kill | Kind::PowerLoss | Kind::Pause | Kind::Trouble);
        match &fault.what {
            What::Kill(node) | What::PowerLoss(node) | What::Pause(node) | What::Trouble(node, _)
                if needs_process && !world.is_up(*node) =>
            {
                return;
            }
            What::Kill(node) => world.kill(*node),
            What::PowerLoss(node) => world.crash(*node),
            What::Blackout => {
                for node in 0..self.nodes {
                    if world.is_up(node) {
                        world.crash(node);
                    }
                }
            }
            What::Pause(node) => world.set_paused(*node, true),
            What::Cut(from, to) => {
                let ends = (self.address(world, *from), self.address(world, *to));
                self.cut(world, index, vec![ends]);
            }
            What::Split(side) => {
                let (side, others): (Vec<_>, Vec<_>) =
                    (0..self.nodes).map(Place::Node).partition(|place| is_in(place, side, &[]));
                self.separate(world, index, &side, &others);
            }
            What::Island(nodes, sessions) => {
                let clients = self.clients.keys().map(|number| Place::Session(*number));
                let (side, others): (Vec<_>, Vec<_>) = (0..self.nodes)
                    .map(Place::Node)
                    .chain(clients)
                    .partition(|place| is_in(place, nodes, sessions));
                self.separate(world, index, &side, &others);
            }
            What::Storm(weather) => world.network.set_weather(*weather),
            What::SlowNode(node, by_ms) => {
                let host = &world.hosts[*node];
                world.network.slow_down(host.address.ip(), Duration::from_millis(*by_ms));
                host.disk.set_speed(slowed(100));
            }
            What::SlowDisk(node, factor) => world.hosts[*node].disk.set_speed(slowed(*factor)),
            What::Trouble(node, trouble) => world.hosts[*node].disk.set_trouble(Some(*trouble)),
            What::FullDisk(node) => world.hosts[*node].disk.set_full(true),
            What::Clock(node, skew_ms) => world.set_skew(*node, *skew_ms),
            What::Move(node) => world.relocate(*node),
            What::Wipe(node) => {
                world.kill(*node);
                world.hosts[*node].disk.wipe();
            }
            What::Restore(node, _) => {
                if let Some(copy) = self.copies.remove(&index) {
                    world.kill(*node);
                    world.hosts[*node].disk.restore(&copy);
                    world.hosts[*node].known = None;
                }
            }
            What::Clone(node) | What::Twin(node) => {
                let double = world.duplicate(*node, kind == Kind::Clone);
                world.start(double);
                self.doubles.insert(index, double);
            }
            What::Rot(node, one_in) => {
                let spoilt = world.hosts[*node].disk.rot(Space::Records, *one_in);
                world.log.note(format!("a bit flips in {spoilt} records"));
            }
            What::Restart(node, release) => {
                if world.is_up(*node) {
                    world.kill(*node);
                }
                world.hosts[*node].features = release.features();
            }
            What::Enable => {
                let change = Feature::Moving.to_change();
                self.changes.push((None, tokio::spawn(propose(self.operator.clone(), change))));
            }
            What::Change(change) => {
                if let Some(victim) = change.victim() {
                    world.kill(victim);
                    world.gone.insert(victim);
                }
                let (victim, change) = (change.victim(), change_of(world, *change));
                self.changes.push((victim, tokio::spawn(propose(self.operator.clone(), change))));
            }
            What::Drift(node, one_in) => {
                let disk = &world.hosts[*node].disk;
                let spoilt = disk.rot(Space::Digests, *one_in) + disk.forget(Space::Digests, *one_in);
                world.log.note(format!("{spoilt} entries of the index go wrong"));
            }
        }
        world.log.note(format!("({})", fault.what));
        self.sighted(kind.plural());
    }

    /// Cuts every link between the two sides, in both directions.
    fn separate(&mut self, world: &World, index: usize, side: &[Place], others: &[Place]) {
        let address = |place: &Place| self.address(world, *place);
        let pairs = others
            .iter()
            .flat_map(|other| side.iter().map(move |place| (address(place), address(other))))
            .flat_map(|(a, b)| [(a, b), (b, a)])
            .collect();
        self.cut(world, index, pairs);
    }

    fn end(&mut self, world: &mut World, index: usize) {
        let fault = &self.faults[index];
        match &fault.what {
            What::Kill(node)
            | What::PowerLoss(node)
            | What::Move(node)
            | What::Wipe(node)
            | What::Restore(node, _)
            | What::Restart(node, _) => self.revive(world, *node),
            What::Blackout => (0..self.nodes).for_each(|node| self.revive(world, node)),
            What::Pause(node) => world.set_paused(*node, false),
            What::Cut(..) | What::Split(_) | What::Island(..) => {
                for (from, to) in self.cuts.remove(&index).unwrap_or_default() {
                    world.network.mend(from, to);
                }
            }
            What::Storm(_) => world.network.set_weather(Weather::FAIR),
            What::SlowNode(node, _) => {
                let host = &world.hosts[*node];
                world.network.slow_down(host.address.ip(), Duration::ZERO);
                host.disk.set_speed(Speed::USUAL);
            }
            What::SlowDisk(node, _) => world.hosts[*node].disk.set_speed(Speed::USUAL),
            What::Trouble(node, _) => world.hosts[*node].disk.set_trouble(None),
            What::FullDisk(node) => world.hosts[*node].disk.set_full(false),
            What::Clock(node, _) => world.set_skew(*node, 0),
            // Whoever notices mends it.
            What::Rot(..) | What::Drift(..) | What::Change(_) | What::Enable => {}
            What::Clone(_) | What::Twin(_) => {
                if let Some(double) = self.doubles.remove(&index) {
                    world.kill(double);
                }
            }
        }
        world.log.note(format!("(over: {})", fault.what));
    }

    fn address(&self, world: &World, place: Place) -> IpAddr {
        match place {
            Place::Node(node) => world.hosts[node].address.ip(),
            // A session that was left out of the plan is at no address that anybody has.
            Place::Session(number) => {
                self.clients.get(&number).copied().unwrap_or(IpAddr::from([0, 0, 0, 0]))
            }
            Place::Operator => self.operator_at,
        }
    }

    fn cut(&mut self, world: &World, index: usize, pairs: Vec<(IpAddr, IpAddr)>) {
        pairs.iter().for_each(|(from, to)| world.network.cut(*from, *to));
        self.cuts.insert(index, pairs);
    }

    fn revive(&mut self, world: &mut World, node: usize) {
        if !world.is_up(node) && !world.gone.contains(&node) {
            world.start(node);
            self.sighted("restarts");
        }
    }

    /// Waits until every change has been taken. A node that cannot be done without comes back.
    pub(crate) async fn changes_are_taken(&mut self, world: &mut World) {
        for (victim, change) in std::mem::take(&mut self.changes) {
            if change.await.expect("an operator does not panic") {
                continue;
            }
            self.sighted("changes refused");
            // The answer may have been lost, and not the change.
            if let Some(victim) = victim
                && world.membership().departure(&world.hosts[victim].id).is_none()
                && world.gone.remove(&victim)
            {
                self.revive(world, victim);
            }
        }
    }

    /// Ends all faults. With `restart` every process is a new one afterwards, otherwise those go on that can.
    pub(crate) fn heal(&mut self, world: &mut World, restart: bool) {
        world.log.note("all faults end");
        world.network.clear();
        for double in std::mem::take(&mut self.doubles).into_values() {
            world.kill(double);
        }
        for node in (0..self.nodes).filter(|node| !world.gone.contains(node)).collect::<Vec<_>>() {
            let disk = &world.hosts[node].disk;
            disk.set_speed(Speed::USUAL);
            disk.set_full(false);
            disk.set_trouble(None);
            world.set_paused(node, false);
            if restart && world.is_up(node) {
                world.kill(node);
            }
            if !world.is_up(node) {
                world.start(node);
            }
        }
    }
}

fn change_of(world: &World, change: MemberChange) -> Change {
    let id = |node: usize| world.hosts[node].id;
    match change {
        MemberChange::Join(node) => Change::Join(world.member(node)),
        MemberChange::Leave(node) => Change::Leave(id(node)),
        MemberChange::Remove(node) | MemberChange::Exclude(node) => Change::Remove(id(node)),
        MemberChange::Replace(old, new) => Change::Replace { old: id(old), new: world.member(new) },
        MemberChange::Weight(node, weight) => Change::Weight { node: id(node), weight },
    }
}

/// Proposes a change until somebody takes it, or has said for a while that it makes no sense: not every node has heard of what was changed before. Says whether it was taken.
async fn propose(operator: Client, change: Change) -> bool {
    let until = Instant::now() + REFUSED_FOR;
    loop {
        match operator.propose(change.clone(), Vec::new()).await {
            Ok(_) => return true,
            Err(Error::NotDone { code: FailureCode::Invalid, .. }) if Instant::now() >= until => {
                return false;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(500)).await,
        }
    }
}

/// Waits until `at`; meanwhile processes that ask for it are restarted.
async fn supervise(world: &mut World, nodes: usize, at: Instant) {
    while Instant::now() < at {
        tokio::time::sleep_until(at.min(Instant::now() + Duration::from_millis(500))).await;
        world.restart_old(nodes);
        world.stop_left();
    }
}

fn slowed(factor: u32) -> Speed {
    Speed { commit: Speed::USUAL.commit * factor, sync: Speed::USUAL.sync * factor }
}

fn is_in(place: &Place, nodes: &[usize], sessions: &[usize]) -> bool {
    match place {
        Place::Node(index) => nodes.contains(index),
        Place::Session(number) => sessions.contains(number),
        Place::Operator => false,
    }
}

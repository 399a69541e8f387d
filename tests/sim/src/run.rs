//! One plan from beginning to end: found, work under faults, heal, read everything, check.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, panic_any, set_hook, take_hook},
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use dynkv_client::Client;
use dynkv_ring::NodeId;
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    checker::{Circumstances, Violation, check},
    copies::Copies,
    faults::Nemesis,
    heal::{self, Last},
    history::{Ending, GetRecord, History},
    log::Log,
    plan::{Plan, Release, SessionPlan, Work},
    replicas,
    report::{Report, Sightings},
    workload::Session,
    world::World,
};

/// Runs the plan that `seed` draws.
pub fn run(seed: u64) -> Report {
    run_plan(&Plan::draw(seed))
}

/// Runs a plan.
pub fn run_plan(plan: &Plan) -> Report {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O is memory only");
    let log = RefCell::new(None);
    let (outcome, panics) = watched(|| runtime.block_on(simulate(plan, &log)));
    // Ghosts of crashed nodes may still wait for something.
    runtime.shutdown_background();
    let mut report = outcome.unwrap_or_else(|| Report {
        plan: plan.clone(),
        seen: Sightings::new(),
        last: BTreeMap::new(),
        verdict: Ok(()),
        log: log.take().map(|log: Log| log.lines()).unwrap_or_default(),
        replicas: Vec::new(),
    });
    if let Some(what) = panics.into_iter().next() {
        report.verdict = Err(Violation { promise: "nothing panics", key: None, what });
    }
    report
}

thread_local! {
    /// Panics on this thread, while a run is watched: those in tasks would pass unseen.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

/// Runs `work`; `None` if it panicked. Says what panicked, here and in tasks.
fn watched<T>(work: impl FnOnce() -> T) -> (Option<T>, Vec<String>) {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let usual = take_hook();
        set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            let watched = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(info.to_string().replace('\n', " "));
                    true
                }
                None => false,
            });
            if !watched {
                usual(info);
            }
        }));
    });
    PANICS.set(Some(Vec::new()));
    let outcome = catch_unwind(AssertUnwindSafe(work));
    let panics = PANICS.take().unwrap_or_default();
    match outcome {
        Ok(outcome) => (Some(outcome), panics),
        // Raised without the hook: nobody has noted it.
        Err(panic) if panics.is_empty() => panic_any(panic),
        Err(_) => (None, panics),
    }
}

/// Homes of each key.
pub(crate) const REPLICAS: u8 = 3;

async fn simulate(plan: &Plan, log: &RefCell<Option<Log>>) -> Report {
    let mut random = StdRng::seed_from_u64(plan.seed ^ 0x5eed);
    let mut world = World::new(random.next_u64(), plan.nodes as u8);
    world.anti_entropy = plan.compares_replicas();
    log.replace(Some(world.log.clone()));
    for line in plan.to_string().lines() {
        world.log.note(line);
    }
    world.zones = plan.zones;
    for host in world.hosts.iter_mut().take(plan.old) {
        host.features = Release::Old.features();
    }
    world.found(plan.partitions(), REPLICAS, plan.spares).await;
    world.seedless = plan.seedless;
    let admin = world.client(Duration::from_secs(10)).await;
    let admin_at = world.latest_client();
    set_buckets(&admin, plan).await;
    tokio::time::sleep(Duration::from_millis(plan.warm_up_ms)).await;

    let history = Arc::new(Mutex::new(History::default()));
    let copies = Copies::new(&world, plan.nodes, admin.view().ring().clone());
    let mut clients = BTreeMap::new();
    let mut sessions = Vec::new();
    for session in &plan.sessions {
        let client = world.client(Duration::from_millis(session.timeout_ms)).await;
        clients.insert(session.number, world.latest_client());
        let keys = [&plan.keys[..], &Plan::own_keys(session.number)].concat();
        let mut worker =
            Session::new(session.number, client, keys, history.clone(), world.log.clone(), session.seed);
        worker.copies = Some(copies.clone());
        sessions.push((session, worker));
    }
    let begin = Instant::now();
    let until = begin + plan.duration();
    let sessions: Vec<_> = sessions
        .into_iter()
        .map(|(plan, session)| tokio::spawn(work(plan.clone(), session, until)))
        .collect();
    let watch = tokio::spawn(copies.watch(history.clone(), random.next_u64()));
    let mut nemesis = Nemesis::new(plan, clients, (admin, admin_at));
    nemesis.work(&mut world, begin, until).await;
    let restart = random.random_bool(0.5);
    nemesis.heal(&mut world, restart);
    for session in sessions {
        session.await.expect("a session does not panic");
    }
    nemesis.changes_are_taken(&mut world).await;
    let keys = plan.all_keys();
    let healed = heal::read_all(&mut world, plan, &keys, random.next_u64()).await;
    watch.abort();
    let history = history.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut seen = nemesis.seen;
    sight(&mut seen, &history);
    for (name, count) in world.counters() {
        seen.insert(format!("nodes: {name}"), count);
    }
    sight_members(&mut seen, &world);
    let circumstances = Circumstances {
        power_lost: plan.loses_power(),
        disks_lost: if plan.loses_disk() { plan.lost_at_once } else { 0 },
        disk_replaced: plan.replaces_disk(),
        two_disks: plan.two_disks,
        settles: plan.may_settle(),
    };
    let mut last = BTreeMap::new();
    let verdict = healed.and_then(|Last { gets, held, repairs }| {
        seen.insert("repairs after healing".into(), repairs);
        let values = |get: &GetRecord| get.versions.iter().map(|version| version.value.clone()).collect();
        last = gets.iter().map(|get| (get.key.clone(), values(get))).collect();
        if plan.keeps_indexes() {
            trees_are_right(&seen)?;
        }
        only_old_disks_are_set_aside(&world, plan)?;
        histories_grow(&world)?;
        // What some have dropped and others have not is given back by reads.
        if !restart && plan.keeps_processes() && !plan.compares_replicas() && !plan.may_settle() {
            nothing_is_lost_on_the_way(&seen)?;
        }
        check(&history, &gets, &held, circumstances)
    });
    let key = verdict.as_ref().err().and_then(|violation| violation.key.as_ref());
    let replicas = key.map(|key| replicas::of_key(&world, plan.nodes, key)).unwrap_or_default();
    Report { plan: plan.clone(), seen, last, verdict, log: world.log.lines(), replicas }
}

/// Where no disk spoils what it holds, nothing may be found that does not fit.
fn trees_are_right(seen: &Sightings) -> Result<(), Violation> {
    match seen.get("nodes: tree_drifts").copied().unwrap_or_default() {
        0 => Ok(()),
        drifts => Err(Violation {
            promise: "trees and the digest index say what is stored",
            key: None,
            what: format!("{drifts} were set right"),
        }),
    }
}

/// A disk that is set aside costs a copy of everything.
fn only_old_disks_are_set_aside(world: &World, plan: &Plan) -> Result<(), Violation> {
    let copied: BTreeSet<NodeId> = plan.runs_old_disks().map(|index| world.hosts[index].id).collect();
    match world.set_aside().difference(&copied).next() {
        None => Ok(()),
        Some(node) => Err(Violation {
            promise: "only an old copy of a disk is set aside",
            key: None,
            what: format!("that of {node} was"),
        }),
    }
}

/// What a node has heard of the members it knows for ever.
fn histories_grow(world: &World) -> Result<(), Violation> {
    match world.forgetful.first() {
        None => Ok(()),
        Some(node) => Err(Violation {
            promise: "a node's history never shrinks",
            key: None,
            what: format!("{node} knew less of it after a restart"),
        }),
    }
}

/// While processes and disks last, every home gets every write, now or as a hint: reads find nothing to repair afterwards.
fn nothing_is_lost_on_the_way(seen: &Sightings) -> Result<(), Violation> {
    let count = |what: &str| seen.get(what).copied().unwrap_or_default();
    let bounds = ["hints_not_placed", "puts_left_early", "background_left_out"];
    let within_bounds = bounds.iter().all(|name| count(&format!("nodes: {name}")) == 0);
    let repairs = count("repairs after healing");
    if within_bounds && repairs > 0 {
        return Err(Violation {
            promise: "every home gets every write, now or as a hint",
            key: None,
            what: format!("{repairs} repairs by the first reads after hints were delivered"),
        });
    }
    Ok(())
}

async fn work(plan: SessionPlan, session: Session, until: Instant) {
    match plan.work {
        Work::Random => session.run(until).await,
        Work::Steps(steps) => session.follow(steps, until).await,
    }
}

async fn set_buckets(admin: &Client, plan: &Plan) {
    for bucket in plan.buckets() {
        let change = bucket.change(plan.two_disks, plan.grace_ms).to_change();
        admin.propose(change, Vec::new()).await.expect("no faults yet");
    }
}

fn sight_members(seen: &mut Sightings, world: &World) {
    let membership = world.membership();
    let ring = membership.ring();
    let zones = |partition| {
        let homes = ring.homes(partition).iter().filter_map(|home| membership.member(home));
        homes.map(|state| state.member.zone.clone()).collect::<BTreeSet<_>>().len()
    };
    seen.insert("members at the end".into(), membership.members().len() as u64);
    seen.insert("members gone".into(), membership.gone().len() as u64);
    let narrowest = ring.partitions().ids().map(zones).min().unwrap_or_default();
    seen.insert("zones of the narrowest partition".into(), narrowest as u64);
}

fn sight(seen: &mut Sightings, history: &History) {
    let mut count = |what: &str, n: usize| *seen.entry(what.to_owned()).or_default() += n as u64;
    let ended = |wanted: fn(&Ending) -> bool| history.puts.iter().filter(|put| wanted(&put.ending)).count();
    count("puts done", ended(|ending| matches!(ending, Ending::Done { .. })));
    count("puts refused", ended(|ending| *ending == Ending::NotDone));
    count("puts unknown", ended(|ending| *ending == Ending::Unknown));
    count(
        "possible duplicates",
        ended(|ending| matches!(ending, Ending::Done { possible_duplicate: true, .. })),
    );
    let foreign = history.puts.iter().filter(|put| put.foreign && put.ending == Ending::NotDone);
    count("foreign contexts refused", foreign.count());
    count("gets done", history.gets.len());
    count("gets failed", history.gets_failed);
    count("gets with siblings", history.gets.iter().filter(|get| get.versions.len() > 1).count());
}

//! One pass over a source: reading on a thread of its own, acting on several entries at a time.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::ControlFlow;
use std::{panic, pin, thread};

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Entry, Item, ItemError};

/// What became of one item.
#[derive(Debug)]
pub(crate) struct Told<T> {
    pub(crate) place: String,
    pub(crate) read_bytes: u64,
    /// Nothing for what is no entry.
    pub(crate) key: Vec<u8>,
    pub(crate) value_bytes: u64,
    pub(crate) result: Result<T, ItemError>,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// All items were acted upon.
    Finished,
    /// `told` broke it off.
    BrokenOff,
    /// `interrupt` did.
    Interrupted,
}

/// How much is under way at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) entries: usize,
    /// Of values; an entry larger than this goes alone.
    pub(crate) bytes: u64,
}

/// Acts on every entry, several at a time within `limits`, and tells of each when it is done. Entries of one key are acted
/// upon one after the other, in their order. When it ends early, what is under way is still brought to its end.
///
/// Memory: twice as many entries as may be under way.
pub(crate) async fn run<T, F>(
    items: Box<dyn Iterator<Item = Item> + Send>,
    limits: Limits,
    act: impl Fn(Entry) -> F,
    mut told: impl FnMut(Told<T>) -> ControlFlow<()>,
    interrupt: impl Future<Output = ()>,
) -> End
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, mut receiver) = mpsc::channel(limits.entries);
    // Reading files blocks, and must not hold up the connections on this thread.
    let reader = thread::spawn(move || {
        for item in items {
            if sender.blocking_send(item).is_err() {
                break;
            }
        }
    });
    let mut interrupt = pin::pin!(interrupt);
    let mut tasks = JoinSet::new();
    let mut busy: BTreeSet<Vec<u8>> = BTreeSet::new();
    let mut busy_bytes = 0;
    // An entry that must wait: its key is being acted upon, or too many bytes are.
    let mut held: Option<(Told<()>, Entry)> = None;
    let mut end = None;
    loop {
        let fits = |bytes| busy.is_empty() || busy_bytes + bytes <= limits.bytes;
        if let Some((about, entry)) =
            held.take_if(|(about, _)| !busy.contains(&about.key) && fits(about.value_bytes))
        {
            busy.insert(about.key.clone());
            busy_bytes += about.value_bytes;
            let action = act(entry);
            tasks.spawn(async move { (about, action.await) });
        }
        let may_read = end.is_none() && held.is_none() && tasks.len() < limits.entries;
        if !may_read && tasks.is_empty() {
            break;
        }
        let flow = tokio::select! {
            () = &mut interrupt, if end.is_none() => {
                end = Some(End::Interrupted);
                ControlFlow::Continue(())
            }
            Some(joined) = tasks.join_next(), if !tasks.is_empty() => {
                let (about, result) = joined.unwrap_or_else(|error| panic::resume_unwind(error.into_panic()));
                let Told { place, read_bytes, key, value_bytes, .. } = about;
                busy.remove(&key);
                busy_bytes -= value_bytes;
                told(Told { place, read_bytes, key, value_bytes, result: Ok(result) })
            }
            item = receiver.recv(), if may_read => match item {
                None => {
                    end = Some(End::Finished);
                    ControlFlow::Continue(())
                }
                Some(Item { place, read_bytes, entry: Ok(entry) }) => {
                    let (key, value_bytes) = (entry.key.clone(), entry.value.len() as u64);
                    held = Some((Told { place, read_bytes, key, value_bytes, result: Ok(()) }, entry));
                    ControlFlow::Continue(())
                }
                Some(Item { place, read_bytes, entry: Err(error) }) => {
                    told(Told { place, read_bytes, key: Vec::new(), value_bytes: 0, result: Err(error) })
                }
            },
        };
        if flow.is_break() {
            end = Some(End::BrokenOff);
        }
        if matches!(end, Some(End::BrokenOff | End::Interrupted)) {
            held = None;
        }
    }
    drop(receiver);
    if let Err(panicked) = reader.join() {
        panic::resume_unwind(panicked);
    }
    end.unwrap_or(End::Finished)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::future::{pending, ready};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};

    use tokio::task::yield_now;

    use super::*;

    fn item(key: &str, value: u32) -> Item {
        let entry = Entry { key: key.into(), value: value.to_string().into_bytes() };
        Item { place: format!("{key}:{value}"), read_bytes: 0, entry: Ok(entry) }
    }

    fn at_most(entries: usize) -> Limits {
        Limits { entries, bytes: u64::MAX }
    }

    fn items(count: u32) -> Box<dyn Iterator<Item = Item> + Send> {
        Box::new((0..count).map(|n| item(&format!("k{}", n % 7), n)))
    }

    #[tokio::test]
    async fn one_key_in_order_and_never_too_many_at_a_time() {
        let running = Arc::new(AtomicUsize::new(0));
        let seen: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u32>>>> = Arc::default();
        let most = Arc::new(AtomicUsize::new(0));
        let act = |entry: Entry| {
            let (running, seen, most) = (running.clone(), seen.clone(), most.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // Later values take shorter: without order by key they would overtake.
                let value: u32 = str::from_utf8(&entry.value).unwrap().parse().unwrap();
                for _ in value..70 {
                    yield_now().await;
                }
                seen.lock().unwrap().entry(entry.key).or_default().push(value);
                running.fetch_sub(1, Ordering::SeqCst);
            }
        };
        let mut told = 0;
        let end = run(
            items(70),
            at_most(5),
            act,
            |_: Told<()>| {
                told += 1;
                ControlFlow::Continue(())
            },
            pending(),
        )
        .await;
        assert_eq!((end, told), (End::Finished, 70));
        assert!(most.load(Ordering::SeqCst) <= 5);
        let seen = seen.lock().unwrap();
        assert_eq!(seen.len(), 7);
        assert!(seen.values().all(|values| values.is_sorted() && values.len() == 10), "{seen:?}");
    }

    #[tokio::test]
    async fn bytes_under_way_are_bounded_but_a_large_entry_still_goes() {
        let under_way = Arc::new(AtomicUsize::new(0));
        let most = Arc::new(AtomicUsize::new(0));
        let act = |entry: Entry| {
            let (under_way, most) = (under_way.clone(), most.clone());
            async move {
                let bytes = entry.value.len();
                most.fetch_max(under_way.fetch_add(bytes, Ordering::SeqCst) + bytes, Ordering::SeqCst);
                yield_now().await;
                under_way.fetch_sub(bytes, Ordering::SeqCst);
            }
        };
        let sizes = [3, 3, 3, 20, 0, 3, 9, 3];
        let items = sizes.into_iter().enumerate().map(|(n, size)| {
            let entry = Entry { key: vec![n as u8], value: vec![0; size] };
            Item { place: String::new(), read_bytes: 0, entry: Ok(entry) }
        });
        let mut told = 0;
        let tell = |_: Told<()>| {
            told += 1;
            ControlFlow::Continue(())
        };
        let end = run(Box::new(items), Limits { entries: 4, bytes: 10 }, act, tell, pending()).await;
        assert_eq!((end, told, most.load(Ordering::SeqCst)), (End::Finished, 8, 20));
    }

    #[tokio::test]
    async fn what_is_no_entry_is_told_too() {
        let bad = Item { place: "line 1".into(), read_bytes: 3, entry: Err(ItemError::EmptyKey) };
        let mut results = Vec::new();
        let told = |told: Told<u8>| {
            results.push(told.result);
            ControlFlow::Continue(())
        };
        let end =
            run(Box::new([bad, item("k", 1)].into_iter()), at_most(1), |_| ready(7), told, pending()).await;
        assert_eq!(end, End::Finished);
        assert_eq!(results, [Err(ItemError::EmptyKey), Ok(7)]);
    }

    #[tokio::test]
    async fn an_early_end_finishes_what_is_under_way() {
        let started = Arc::new(AtomicUsize::new(0));
        let act = |_| {
            started.fetch_add(1, Ordering::SeqCst);
            yield_now()
        };
        let mut told = 0;
        let end = run(
            items(u32::MAX),
            at_most(3),
            act,
            |_: Told<()>| {
                told += 1;
                ControlFlow::Break(())
            },
            pending(),
        )
        .await;
        assert_eq!(end, End::BrokenOff);
        assert_eq!(told, started.load(Ordering::SeqCst), "something under way was dropped");
        assert!(told <= 3);

        let end = run(
            items(u32::MAX),
            at_most(3),
            |_| yield_now(),
            |_: Told<()>| ControlFlow::Continue(()),
            ready(()),
        )
        .await;
        assert_eq!(end, End::Interrupted);
    }
}

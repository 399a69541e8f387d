//! What all clones of a client share.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use dynkv_proto::{Digest, PutId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use crate::Options;
use crate::detours::Detours;
use crate::health::Health;
use crate::pool::Pool;
use crate::view::ClusterView;

pub(crate) struct Inner {
    /// For tasks in the background, which must not keep a client alive that nobody uses any more.
    pub(crate) me: Weak<Inner>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) options: Options,
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<String>,
    view: RwLock<Arc<ClusterView>>,
    /// Held while a new view is made out of the old one.
    updating: Mutex<()>,
    /// Held by the one refresh that is under way.
    pub(crate) refreshing: tokio::sync::Mutex<()>,
    pub(crate) refreshed: AtomicU64,
    pub(crate) news: Mutex<Option<(Digest, Instant)>>,
    pub(crate) health: Mutex<Health>,
    pub(crate) detours: Mutex<Detours>,
    random: Mutex<StdRng>,
    pub(crate) refresher: OnceLock<AbortHandle>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(pool: Arc<Pool>, cluster: String, seeds: Vec<String>, options: Options) -> Arc<Inner> {
        let random = match options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        };
        Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            pool,
            options,
            cluster,
            seeds,
            view: RwLock::new(Arc::new(ClusterView::new())),
            updating: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            refreshed: AtomicU64::new(0),
            news: Mutex::default(),
            health: Mutex::default(),
            detours: Mutex::default(),
            random: Mutex::new(random),
            refresher: OnceLock::new(),
        })
    }

    pub(crate) fn put_id(&self) -> PutId {
        PutId(lock(&self.random).random())
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the view by what `change` makes of it; says whether it did.
    pub(crate) fn update<E>(
        &self,
        change: impl FnOnce(&ClusterView) -> Result<Option<ClusterView>, E>,
    ) -> Result<bool, E> {
        let _one_at_a_time = lock(&self.updating);
        let Some(view) = change(&self.view())? else { return Ok(false) };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        Ok(true)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(refresher) = self.refresher.get() {
            refresher.abort();
        }
    }
}

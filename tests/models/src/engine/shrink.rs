//! A violating walk made smaller: steps are left out while the same promise stays broken.

use super::{Failure, Model, walk::replay};

/// Leaves out runs of steps, then single ones, until every one that is left is needed.
pub fn shrink<M: Model>(model: &M, failure: Failure<M::Step>) -> Failure<M::Step> {
    let promise = failure.violation.promise;
    let mut best = failure;
    let mut run = best.walked().len().div_ceil(2);
    while run > 0 {
        let mut at = 0;
        let mut smaller = false;
        while at < best.walked().len() {
            let kept = best.walked().to_vec();
            let mut fewer = kept[..at].to_vec();
            fewer.extend_from_slice(&kept[(at + run).min(kept.len())..]);
            match replay(model, &fewer) {
                Err(shorter)
                    if shorter.violation.promise == promise && shorter.walked().len() < kept.len() =>
                {
                    best = shorter;
                    smaller = true;
                }
                _ => at += run,
            }
        }
        // After a success single steps get another chance; a longer run would hardly fit any more.
        run = if smaller && run == 1 { 1 } else { run / 2 };
    }
    best
}

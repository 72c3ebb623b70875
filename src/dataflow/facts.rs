use std::mem;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::select;
use differential_dataflow::{AsCollection, VecCollection};
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Operator;
use timely::dataflow::operators::generic::operator::source;
use timely::dataflow::{Scope, StreamVec};

use super::control::lock;
use super::source::SourceContext;
use super::{Control, Epoch, RunError, Waker};
use crate::clinical::{Activation, Fact};
use crate::domain::ModelHash;
use crate::store::{Change, LoggedChange, Receipt, Store, StoreError};

/// How often the log is read for what others wrote: another process that uses
/// the same store, such as `hepaflow labels import`.
const LOOK: Duration = Duration::from_secs(1);
/// Rows that are read at once.
const ROWS: usize = 4096;

/// Enters facts into a run, from any thread: they are on disk, in the store's
/// log, when [`Facts::enter`] returns, and in the answers soon after.
///
/// The log is the only way in. A run follows it from its first row on: what was
/// entered before it began, by this handle, or by another process is the same.
///
/// ```
/// # use hepaflow::{clinical::*, dataflow::Facts, domain::*, store::*};
/// # let folder = tempfile::tempdir()?;
/// let store = Store::open(&folder.path().join("results.sqlite"))?;
/// let facts = Facts::new(store);
/// let merge = Fact::Merge(PatientId::new("P-1 (old)"), PatientId::new("P-1"));
/// let receipt = facts.enter(&[Change::Enter(merge.clone())], "api", "two records of one person")?;
/// assert_eq!(receipt.outcomes, [Ok(Effect::Logged(1))]);
/// let again = facts.enter(&[Change::Enter(merge)], "api", "said twice")?;
/// assert_eq!(again.outcomes, [Ok(Effect::Unchanged)]);
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Facts(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Mutex<Store>,
    bell: Sender<()>,
    rung: Receiver<()>,
}

impl Facts {
    /// Over a connection of its own to the run's store.
    pub fn new(store: Store) -> Self {
        let (bell, rung) = bounded(1);
        Self(Arc::new(Inner {
            store: Mutex::new(store),
            bell,
            rung,
        }))
    }

    /// Takes changes into the log; see [`Store::enter`]. Blocks for as long as
    /// the disk takes.
    ///
    /// # Errors
    /// If the store refuses: then nothing was entered.
    pub fn enter(
        &self,
        changes: &[Change],
        actor: &str,
        reason: &str,
    ) -> Result<Receipt, StoreError> {
        let receipt = lock(&self.0.store).enter(changes, actor, reason)?;
        // Full means that the follower looks soon anyway.
        let _ = self.0.bell.try_send(());
        Ok(receipt)
    }

    /// Sees to it that the current answers are those of one of `models`, which
    /// run: unless one of them is active already, the first is.
    pub(super) fn activate_one_of(&self, models: &[ModelHash]) -> Result<(), StoreError> {
        let active = lock(&self.0.store).active_model()?;
        if active.is_some_and(|active| models.contains(&active)) {
            return Ok(());
        }
        let Some(&model) = models.first() else {
            return Ok(());
        };
        let activation = Fact::Activation(Activation { number: 0, model });
        let reason = "no model of this run was active";
        self.enter(&[Change::Enter(activation)], "hepaflow run", reason)?;
        Ok(())
    }

    fn after(&self, number: u64) -> Result<Vec<LoggedChange>, StoreError> {
        let mut rows = lock(&self.0.store).facts_after(number, ROWS)?;
        // A correction is two rows, which belong into one epoch.
        let is_torn = |row: &LoggedChange| matches!(row.change, Change::Withdraw(_));
        if rows.len() == ROWS && rows.last().is_some_and(is_torn) {
            rows.pop();
        }
        Ok(rows)
    }
}

/// A change as the graph takes it: its number in the log, the fact, and 1 or -1.
type Step = (u64, Fact, isize);

fn steps(rows: Vec<LoggedChange>) -> Vec<Step> {
    rows.into_iter()
        .map(|row| {
            let by = row.change.difference();
            (row.number, row.change.into_fact(), by)
        })
        .collect()
}

/// That the facts of these numbers, the first to the last, came at an epoch.
pub(super) type Came = (Epoch, u64, u64);

/// The log as the graph reads it: what it held, and what comes.
#[derive(Debug)]
pub(super) struct Following {
    /// What the log held at first; taken by the operator.
    pub(super) known: Vec<Step>,
    rows: Receiver<Vec<Step>>,
    /// Tells the thread that nobody reads any more, by being dropped.
    _reading: Sender<()>,
}

impl Facts {
    /// Reads the log, and starts the thread that reads on.
    pub(super) fn follow(&self, control: Control) -> Result<(Following, JoinHandle<()>), RunError> {
        let mut known = Vec::new();
        let mut seen = 0;
        loop {
            let rows = self.after(seen)?;
            let Some(last) = rows.last() else { break };
            seen = last.number;
            known.extend(steps(rows));
        }
        let (sender, rows) = bounded(4);
        let (reading, ended) = bounded(0);
        let facts = self.clone();
        let thread = std::thread::Builder::new()
            .name("facts".to_owned())
            .spawn(move || facts.read_on(seen, &sender, &ended, &control))?;
        let following = Following {
            known,
            rows,
            _reading: reading,
        };
        Ok((following, thread))
    }

    fn read_on(
        &self,
        mut seen: u64,
        sender: &Sender<Vec<Step>>,
        ended: &Receiver<()>,
        control: &Control,
    ) {
        loop {
            select! {
                recv(ended) -> _ => return,
                recv(self.0.rung) -> _ => {}
                default(LOOK) => {}
            }
            loop {
                let rows = match self.after(seen) {
                    Ok(rows) => rows,
                    Err(error) => return control.fail(RunError::Store(error)),
                };
                let Some(last) = rows.last() else { break };
                seen = last.number;
                if sender.send(steps(rows)).is_err() {
                    return;
                }
                control.wake_sources();
            }
        }
    }
}

/// The facts of the log, given by the first worker: those it held at epoch 0,
/// those that come at the epoch in which they come; and which numbers came when.
/// The present epoch is passed on while nothing comes, too.
pub(super) fn facts<'scope>(
    scope: Scope<'scope, Epoch>,
    following: Option<Following>,
    context: &SourceContext,
) -> (
    VecCollection<'scope, Epoch, Fact, isize>,
    StreamVec<'scope, Epoch, Came>,
) {
    let (clock, control, reading) = (
        context.clock.clone(),
        context.control.clone(),
        Arc::clone(&context.reading),
    );
    let steps =
        source::<_, CapacityContainerBuilder<Vec<_>>, _, _>(scope, "Facts", |capability, info| {
            let waker = Waker::new(scope.worker().sync_activator_for(info.address.to_vec()));
            control.register_source(waker.clone());
            waker.wake();
            let mut open = following.map(|following| (following, capability));
            move |output| {
                waker.clear();
                let Some((following, held)) = open.as_mut() else {
                    return;
                };
                // Asked first: what was entered before the last stream ended is read.
                let is_last = reading.load(Ordering::Acquire) == 0;
                let known = mem::take(&mut following.known);
                output.session(&held).give_iterator(known.into_iter());
                let now = clock.now();
                if now > *held.time() {
                    held.downgrade(&now);
                }
                let mut session = output.session(&held);
                for rows in following.rows.try_iter() {
                    clock.touch();
                    session.give_iterator(rows.into_iter());
                }
                drop(session);
                if is_last {
                    open = None;
                }
            }
        });
    let facts = steps.clone().unary(Pipeline, "Fact changes", |_, _| {
        |input, output| {
            input.for_each(|capability, steps: &mut Vec<Step>| {
                let Some(&epoch) = capability.least() else {
                    return;
                };
                output
                    .session(&capability)
                    .give_iterator(steps.drain(..).map(|(_, fact, by)| (fact, epoch, by)));
            });
        }
    });
    let came = steps.unary(Pipeline, "Fact numbers", |_, _| {
        |input, output| {
            input.for_each(|capability, steps: &mut Vec<Step>| {
                let numbers = || steps.iter().map(|(number, ..)| *number);
                if let (Some(&epoch), Some(first), Some(last)) =
                    (capability.least(), numbers().min(), numbers().max())
                {
                    output.session(&capability).give((epoch, first, last));
                }
            });
        }
    });
    (facts.as_collection(), came)
}

//! The one task that writes, and group commit.
//!
//! Jobs run in the order of their submission inside one transaction; when no further job is
//! waiting, or the batch is full, the transaction commits and every job's answer goes out. There is
//! no timer: under load many answers share one fsync, and a lone job waits for nobody.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::config::Mutant;
use crate::store::{Store, StoreError, Tx};

/// Most jobs in one transaction: bounds how long the first of them waits for its commit.
const BATCH: usize = 512;
/// Jobs that may wait; a submitter waits for room beyond that.
const QUEUE: usize = 4_096;

/// A job's work inside the transaction.
pub(crate) trait Work<T>:
    for<'a> FnOnce(&'a mut dyn Tx) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static
{
}
impl<T, F> Work<T> for F where
    F: for<'a> FnOnce(&'a mut dyn Tx) -> BoxFuture<'a, Result<T, StoreError>> + Send + 'static
{
}

#[async_trait]
trait Job: Send {
    /// Runs inside the transaction and keeps its result.
    async fn run(&mut self, tx: &mut dyn Tx) -> Result<(), StoreError>;
    /// Answers, once the fate of the transaction is known.
    fn finish(self: Box<Self>, committed: Result<(), &StoreError>);
}

struct Typed<T, F> {
    work: Option<F>,
    result: Option<T>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

#[async_trait]
impl<T: Send + 'static, F: Work<T>> Job for Typed<T, F> {
    async fn run(&mut self, tx: &mut dyn Tx) -> Result<(), StoreError> {
        if let Some(work) = self.work.take() {
            self.result = Some(work(tx).await?);
        }
        Ok(())
    }

    fn finish(self: Box<Self>, committed: Result<(), &StoreError>) {
        let answer = match (committed, self.result) {
            (Ok(()), Some(result)) => Ok(result),
            (Ok(()), None) => Err(StoreError::Closed),
            (Err(e), _) => Err(StoreError::Aborted(e.to_string())),
        };
        // Nobody waiting any more is fine: the connection went away, the write stands.
        let _ = self.answer.send(answer);
    }
}

/// Submits jobs; cheap to clone.
#[derive(Clone)]
pub(crate) struct Writer(mpsc::Sender<Box<dyn Job>>);

/// An answer that comes after the commit.
pub(crate) type Pending<T> = oneshot::Receiver<Result<T, StoreError>>;

impl Writer {
    /// Starts the writing task; it ends when every `Writer` is gone and all jobs are done.
    pub(crate) fn start(
        store: Arc<dyn Store>,
        mutant: Option<Mutant>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (tx, rx) = mpsc::channel(QUEUE);
        (Self(tx), tokio::spawn(run(store, rx, mutant)))
    }

    /// Puts a job in line, waiting for room only. Jobs submitted one after the other run in that
    /// order.
    pub(crate) async fn submit<T: Send + 'static>(&self, work: impl Work<T>) -> Pending<T> {
        let (answer, pending) = oneshot::channel();
        let job = Typed { work: Some(work), result: None, answer };
        // A closed queue drops the job, and with it the answer's sender.
        let _ = self.0.send(Box::new(job)).await;
        pending
    }

    /// Submits and waits for the commit.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl Work<T>) -> Result<T, StoreError> {
        self.submit(work).await.await.unwrap_or(Err(StoreError::Closed))
    }
}

async fn run(store: Arc<dyn Store>, mut rx: mpsc::Receiver<Box<dyn Job>>, mutant: Option<Mutant>) {
    let mut batch: Vec<Box<dyn Job>> = Vec::with_capacity(BATCH);
    while rx.recv_many(&mut batch, BATCH).await > 0 {
        let result = transact(store.as_ref(), &mut batch, &mut rx, mutant).await;
        if let Err(e) = &result {
            tracing::error!(error = %e, jobs = batch.len(), "transaction failed");
        }
        for job in batch.drain(..) {
            job.finish(result.as_ref().map(|_| ()));
        }
    }
}

async fn transact(
    store: &dyn Store,
    batch: &mut Vec<Box<dyn Job>>,
    rx: &mut mpsc::Receiver<Box<dyn Job>>,
    mutant: Option<Mutant>,
) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let mut done = 0;
    while done < batch.len() {
        batch[done].run(tx.as_mut()).await?;
        done += 1;
        // What has come in meanwhile joins this commit.
        while batch.len() < BATCH {
            let Ok(job) = rx.try_recv() else { break };
            batch.push(job);
        }
    }
    if mutant == Some(Mutant::AckBeforeCommit) {
        for job in batch.drain(..) {
            job.finish(Ok(()));
        }
        // Long enough for a test to cut the power in between.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    }
    tx.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::MemoryStore;

    #[tokio::test]
    async fn jobs_run_in_order_and_answer_after_the_commit() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        let (writer, task) = Writer::start(store.clone(), None);
        let mut pending = Vec::new();
        for i in 0..2_000u32 {
            pending.push(
                writer
                    .submit(move |tx| {
                        Box::pin(async move {
                            tx.set("last", &i.to_be_bytes()).await?;
                            Ok(i)
                        })
                    })
                    .await,
            );
        }
        for (i, p) in pending.into_iter().enumerate() {
            assert_eq!(p.await.unwrap().unwrap() as usize, i);
        }
        assert_eq!(store.setting("last").await.unwrap().unwrap(), 1_999u32.to_be_bytes());
        drop(writer);
        task.await.unwrap();
    }
}

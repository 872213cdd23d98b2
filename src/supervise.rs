//! Who lives as long as the gateway, and what happens when it ends: threads and tasks alike.
//!
//! **Runs on**: any runtime of the gateway. **Owns**: nothing but a way to main. **Never**: lets a
//! task that others rely on end in silence. A runtime swallows the panic of a task, so a gateway
//! without its reader of Redis, say, would look alive for ever.

use std::io;

use ara_shards::worker::Ending;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::{AbortHandle, JoinHandle};

/// What threads and tasks report to main.
#[derive(Debug)]
pub enum SupervisorEvent {
    /// The API answers.
    Ready,
    /// A thread has ended.
    ThreadEnded(String, Ending),
    /// A long-lived task has ended.
    TaskEnded(String, Ending),
}

/// Watches threads and tasks for main, which takes the process down when one ends unasked.
#[derive(Debug, Clone)]
pub struct Supervisor {
    events: mpsc::Sender<SupervisorEvent>,
    /// The task that panics, in a test.
    #[cfg(test)]
    pub(crate) fault: Option<&'static str>,
}

impl Supervisor {
    /// A supervisor, and what main reads. There must be room for the end of everything that is
    /// supervised: `events_max` is the most there can be.
    #[must_use]
    pub fn new(events_max: usize) -> (Self, mpsc::Receiver<SupervisorEvent>) {
        let (events, read) = mpsc::channel(events_max);
        let supervisor = Self {
            events,
            #[cfg(test)]
            fault: None,
        };
        (supervisor, read)
    }

    /// Reports to main, if it is still there.
    pub fn report(&self, event: SupervisorEvent) {
        if let Err(TrySendError::Full(event)) = self.events.try_send(event) {
            panic!("there is room for every end, but not for {event:?}");
        }
    }

    /// Spawns a task that lives as long as the gateway, on this thread's runtime. It returns only
    /// when the gateway stops, or with the error that keeps it from going on; that and a panic take
    /// the process down. Nothing is reported when it is aborted.
    pub fn spawn(
        &self,
        name: impl Into<String>,
        task: impl Future<Output = io::Result<()>> + 'static,
    ) -> AbortHandle {
        let (name, supervisor) = (name.into(), self.clone());
        #[cfg(test)]
        let task = fail(task, self.fault == Some(&*name));
        let task = spawn_unsupervised(task);
        let handle = task.abort_handle();
        spawn_unsupervised(async move {
            let ending = match task.await {
                Ok(Ok(())) => Ending::Stopped,
                Ok(Err(error)) => Ending::Failed(error),
                Err(error) if error.is_cancelled() => return,
                Err(_panicked) => Ending::Panicked,
            };
            supervisor.report(SupervisorEvent::TaskEnded(name, ending));
        });
        handle
    }
}

/// Spawns the task of one connection or one request. A panic ends only that: the panic hook logs
/// and counts it, and the task's socket closes as it is dropped.
#[expect(clippy::disallowed_methods, reason = "the one place where tasks are spawned")]
pub fn spawn_unsupervised<T: 'static>(task: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    tokio::task::spawn_local(task)
}

/// The task, or a panic once it has been at work.
#[cfg(test)]
async fn fail<T>(task: impl Future<Output = T>, is_to_fail: bool) -> T {
    if !is_to_fail {
        return task.await;
    }
    let moment = std::time::Duration::from_millis(50);
    let outcome = tokio::time::timeout(moment, task).await;
    assert!(outcome.is_err(), "a long-lived task ended by itself");
    panic!("the test's own panic");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "there is room for every end")]
    fn an_end_that_would_be_lost_is_loud() {
        let (supervisor, _events) = Supervisor::new(1);
        supervisor.report(SupervisorEvent::Ready);
        supervisor.report(SupervisorEvent::Ready);
    }
}

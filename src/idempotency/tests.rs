//! Keys over restarts: on real directories, and on storage that fails when it is told to.
//!
//! Set-up: the store and its work in place of triggers; a crash is a copy of the directory, taken
//! while the store is at work. Property: a caller that has its answer gets it again, one that has
//! not gets what it asked for under one name. Why: that is what the key is for.

mod disk_faults;
mod log;
mod record;
mod requests;

use std::cell::Cell;
use std::fs;
use std::path::Path;

use ara_shards::journal::{Fsync, Options};
use tempfile::TempDir;

use super::*;

fn on_a_runtime<T>(task: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build_local(tokio::runtime::LocalOptions::default());
    runtime.unwrap().block_on(task)
}

fn open(path: &Path) -> Rc<StoredResponses> {
    StoredResponses::new(Some(ResponseStore::open(path, Fsync::Always).unwrap()), &unheard())
}

/// A supervisor whose news nobody reads.
fn unheard() -> Supervisor {
    Supervisor::new(1).0
}

/// What a power cut now would leave.
fn crash(path: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    fs::create_dir(copy.path().join("answers")).unwrap();
    for entry in fs::read_dir(path.join("answers")).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), copy.path().join("answers").join(entry.file_name())).unwrap();
    }
    copy
}

/// A request with a key: what it was answered, and by which name it was sent, if it was.
struct Asked {
    outcome: Result<(StatusCode, Bytes, bool), Code>,
    sent: Option<NotificationId>,
}

impl Asked {
    fn body(&self) -> &[u8] {
        &self.outcome.as_ref().unwrap().1
    }

    fn is_repeated(&self) -> bool {
        self.outcome.as_ref().unwrap().2
    }
}

async fn ask(answers: &Rc<StoredResponses>, key: &str, body: &str) -> Asked {
    ask_and(answers, key, body, || Ok(())).await
}

async fn ask_and(
    answers: &Rc<StoredResponses>,
    key: &str,
    body: &str,
    meanwhile: impl FnOnce() -> Result<(), Refusal> + 'static,
) -> Asked {
    let sent = Rc::new(Cell::new(None));
    let send = Rc::clone(&sent);
    let work = move |id: Option<NotificationId>| async move {
        send.set(id);
        meanwhile()?;
        let id = id.map(|id| id.to_string()).unwrap_or_default();
        Ok(Response { status: StatusCode::ACCEPTED, body: format!("{id:0>40}").into() })
    };
    let outcome = ask_with(answers, key, body, work).await;
    Asked { outcome, sent: sent.get() }
}

async fn ask_with<W>(
    answers: &Rc<StoredResponses>,
    key: &str,
    body: &str,
    work: impl FnOnce(Option<NotificationId>) -> W + 'static,
) -> Result<(StatusCode, Bytes, bool), Code>
where
    W: Future<Output = Result<Response, Refusal>> + 'static,
{
    let tenant = "tenant".into();
    let key = Key(key.into());
    let request = Request { tenant: &tenant, key, path: "/path", body: body.as_bytes() };
    let Reply { response, is_repeated } =
        answers.once(request, work).await.map_err(|refusal| refusal.code)?;
    Ok((response.status, response.body, is_repeated))
}

fn options(path: &Path, fsync: Fsync) -> Options {
    let directory = path.join("answers");
    fs::create_dir_all(&directory).unwrap();
    Options { directory, fsync, ..Options::default() }
}

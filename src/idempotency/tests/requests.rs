//! What becomes of a key when its request ends, is refused, breaks, or the process dies.
//!
//! Set-up and reason: see the parent. Property: the first answer again, or the same name again.

use std::cell::Cell;
use std::fs;

use ara_shards::journal::Fsync;

use super::super::*;
use super::{ask, ask_and, ask_with, crash, on_a_runtime, open, unheard};

#[test]
fn without_a_store_a_key_is_remembered_and_nothing_is_named() {
    on_a_runtime(async {
        let answers = StoredResponses::new(None, &unheard());
        let first = ask(&answers, "key", "body").await;
        assert!(first.sent.is_none() && !first.is_repeated());
        assert!(ask(&answers, "key", "body").await.is_repeated());
        let conflict = ask(&answers, "key", "other").await;
        assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
        let broken = || Err(Refusal::new(Code::Internal, ""));
        ask_and(&answers, "broken", "body", broken).await.outcome.unwrap_err();
        assert!(!ask(&answers, "broken", "other").await.is_repeated());
    });
}

#[test]
fn an_answered_key_survives_a_stop_and_a_crash() {
    let directory = tempfile::tempdir().unwrap();
    let (first, crashed) = on_a_runtime(async {
        let answers = open(directory.path());
        let first = ask(&answers, "key", "body").await;
        assert!(first.sent.is_some() && !first.is_repeated());
        let crashed = crash(directory.path());
        answers.close();
        (first, crashed)
    });
    for path in [directory.path(), crashed.path()] {
        on_a_runtime(async {
            let answers = open(path);
            let again = ask(&answers, "key", "body").await;
            assert!(again.is_repeated() && again.sent.is_none());
            assert_eq!(again.body(), first.body());
            assert_eq!(again.outcome.unwrap().0, StatusCode::ACCEPTED);
            let conflict = ask(&answers, "key", "other").await;
            assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
            assert!(!ask(&answers, "other key", "body").await.is_repeated());
            answers.close();
        });
    }
}

#[test]
fn a_crash_before_the_answer_repeats_under_the_same_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let (crashed_in, crashed) = std::sync::mpsc::channel();
    let first = on_a_runtime(async move {
        let answers = open(&path);
        let meanwhile = move || {
            crashed_in.send(crash(&path)).unwrap();
            Ok(())
        };
        let first = ask_and(&answers, "key", "body", meanwhile).await;
        answers.close();
        first
    });
    let crashed = crashed.recv().unwrap();
    on_a_runtime(async {
        let answers = open(crashed.path());
        let conflict = ask(&answers, "key", "other").await;
        assert_eq!(conflict.outcome.unwrap_err(), Code::IdempotencyConflict);
        // A refusal of the second attempt says nothing about the first.
        let refused = || Err(Refusal::new(Code::Overloaded, ""));
        ask_and(&answers, "key", "body", refused).await.outcome.unwrap_err();
        let again = ask(&answers, "key", "body").await;
        assert_eq!(again.sent, first.sent, "the name of the first attempt");
        assert!(!again.is_repeated() && again.sent.is_some());
        answers.close();
    });
    on_a_runtime(async {
        let answers = open(crashed.path());
        assert!(ask(&answers, "key", "body").await.is_repeated());
        answers.close();
    });
}

#[test]
fn a_refused_request_frees_its_key_for_good_and_a_broken_one_keeps_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let broken = on_a_runtime(async {
        let answers = open(directory.path());
        for key in ["now", "later"] {
            let refused = || Err(Refusal::new(Code::Validation, ""));
            let refused = ask_and(&answers, key, "wrong", refused).await;
            assert_eq!(refused.outcome.unwrap_err(), Code::Validation);
        }
        assert!(!ask(&answers, "now", "right").await.is_repeated());
        let broken = || Err(Refusal::new(Code::Internal, ""));
        let broken = ask_and(&answers, "broken", "body", broken).await;
        let panicking = ask_and(&answers, "panicking", "body", || panic!("as a test")).await;
        assert_eq!(panicking.outcome.unwrap_err(), Code::Internal);
        let again = ask(&answers, "panicking", "body").await;
        assert_eq!(again.sent, panicking.sent);
        answers.close();
        broken
    });
    on_a_runtime(async {
        let answers = open(directory.path());
        assert!(!ask(&answers, "later", "right").await.is_repeated());
        assert!(ask(&answers, "now", "right").await.is_repeated());
        let again = ask(&answers, "broken", "body").await;
        assert!(again.sent == broken.sent && again.sent.is_some());
        answers.close();
    });
}

#[test]
fn an_answer_too_long_for_a_record_is_given_and_its_name_is_kept() {
    let directory = tempfile::tempdir().unwrap();
    let name = Rc::new(Cell::new(None));
    let long = |name: &Rc<Cell<_>>| {
        let name = Rc::clone(name);
        move |id| async move {
            name.set(id);
            Ok(Response { status: StatusCode::OK, body: vec![b'1'; 1 << 21].into() })
        }
    };
    on_a_runtime(async {
        let answers = open(directory.path());
        assert_eq!(ask_with(&answers, "key", "", long(&name)).await.unwrap().1.len(), 1 << 21);
        assert!(ask_with(&answers, "key", "", long(&name)).await.unwrap().2);
        answers.close();
    });
    let first = name.take();
    on_a_runtime(async {
        let answers = open(directory.path());
        assert!(!ask_with(&answers, "key", "", long(&name)).await.unwrap().2);
        assert!(name.get() == first && first.is_some());
        answers.close();
    });
}

#[test]
fn a_directory_that_is_in_use_or_cannot_be_is_refused_with_its_path() {
    let directory = tempfile::tempdir().unwrap();
    let first = ResponseStore::open(directory.path(), Fsync::Never).unwrap();
    let error = ResponseStore::open(directory.path(), Fsync::Never).unwrap_err().to_string();
    assert!(error.contains("answers") && error.contains("another process"), "{error}");
    drop(first);
    let file = directory.path().join("file");
    fs::write(&file, "").unwrap();
    let error = ResponseStore::open(&file, Fsync::Never).unwrap_err().to_string();
    assert!(error.contains("file/answers") && error.contains("not usable"), "{error}");
}

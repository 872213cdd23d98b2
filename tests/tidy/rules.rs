//! The rules about code, as data: what is banned, where, and why.
//!
//! A place is a file or a folder. When folders are renamed, change them here: a place without a
//! file fails, and so does an exception that excepts nothing and a banned `crate::` path that no
//! module has, so that no rule falls silent.

use crate::rule::{Ban, Rule};

/// The engine.
const ENGINE: &str = "shards/src";
/// The parts of the engine that are calculation alone.
const PURE: &[&str] =
    &["shards/src/state", "shards/src/queue", "shards/src/wire", "shards/src/protocol"];
/// The one file with hand-made synchronisation; a loom test checks it.
const DOORBELL: &str = "shards/src/link/doorbell.rs";

/// Shared ownership: what is behind one of these may be seen by several threads.
const SHARED: &[&str] = &[
    "std::sync::Arc",
    "std::sync::Weak",
    "triomphe::Arc",
    "triomphe::ThinArc",
    "triomphe::OffsetArc",
];

/// What can be changed through a shared reference.
const MUTABLE: &[&str] = &[
    "std::cell",
    "std::sync::atomic",
    "std::sync::Mutex",
    "std::sync::RwLock",
    "std::sync::Condvar",
    "std::sync::OnceLock",
    "std::sync::LazyLock",
    "loom::sync",
    "parking_lot",
    "tokio::sync",
];

/// Every rule.
pub(crate) const RULES: &[Rule] = &[
    Rule {
        name: "a module says where it runs, what it owns and what it never does",
        why: "who changes it must know its thread and its limits before the first line",
        within: &["src", ENGINE],
        except: &["src/main.rs"],
        bans: &[Ban::HeadWithout(&["**Runs on**", "**Owns**", "**Never**"])],
        caught: &["fn a() {}", "//! A thing. **Runs on**: main. **Never**: waits.\nfn a() {}"],
        passed: &["//! **Runs on**: main. **Owns**: nothing.\n//! **Never**: waits.\nfn a() {}"],
    },
    Rule {
        name: "the state, the queue, the wire and the protocol do no I/O",
        why: "they are tested in virtual time, and a shard may not wait for a file or a socket",
        within: PURE,
        except: &[],
        bans: &[
            Ban::Paths {
                banned: &[
                    "std::fs",
                    "std::io",
                    "std::net",
                    "std::os",
                    "std::process",
                    "std::thread",
                    "std::env",
                    "tokio",
                    "mio",
                    "libc",
                    "tracing",
                    "crossbeam_channel",
                    "core_affinity",
                ],
                // A cursor reads from memory.
                but: &["std::io::Cursor"],
            },
            Ban::Macros(&["print", "println", "eprint", "eprintln", "dbg"]),
            // What a file, a path or a stream can do that came in as an argument.
            Ban::Methods(&[
                "write_all",
                "write_vectored",
                "write_fmt",
                "read_exact",
                "read_to_end",
                "read_to_string",
                "sync_all",
                "sync_data",
                "set_len",
                "exists",
                "try_exists",
                "metadata",
                "symlink_metadata",
                "is_file",
                "is_dir",
                "read_dir",
                "read_link",
                "canonicalize",
            ]),
        ],
        caught: &[
            "fn a() { std::fs::write(\"a\", b\"b\").ok(); }",
            "use std::fs; fn a() { fs::write(\"a\", b\"b\").ok(); }",
            "use std::{fs::{self as files}}; fn a() { files::write(\"a\", b\"b\").ok(); }",
            "fn a() { use std::fs::File; File::create(\"a\").ok(); }",
            "use std::*; fn a() { fs::write(\"a\", b\"b\").ok(); }",
            "fn a() { assert!(std::fs::write(\"a\", b\"b\").is_ok()); }",
            "macro_rules! a { ($b:expr) => { std::fs::write($b, \"\") } }",
            "fn a(log: &mut impl Log) { log.write_all(b\"b\"); }",
            "fn a() { println!(\"b\"); }",
            "use std::eprintln as say; fn a() { say!(\"b\"); }",
            "fn a() { tracing::info!(\"b\"); }",
            "fn a(path: &std::path::Path) -> bool { path.exists() }",
        ],
        passed: &[
            "use std::io::Cursor; fn a() { Cursor::new([1]); }",
            "fn a(fs: u8) -> u8 { fs }",
            "mod fs { pub fn write() {} } fn a() { fs::write(); }",
            "#[cfg(test)] mod tests { use std::fs; }",
            "// std::fs::write\nfn a() -> &'static str { \"std::fs::write\" }",
        ],
    },
    Rule {
        name: "the state, the queue, the wire and the protocol know no time but their arguments",
        why: "a test moves the clock; one that is read inside would make it wait",
        within: PURE,
        except: &[],
        bans: &[
            Ban::Paths {
                banned: &["std::time::Instant", "std::time::SystemTime", "crate::base::clock"],
                but: &[],
            },
            Ban::Methods(&["elapsed"]),
            Ban::Async,
        ],
        caught: &[
            "fn a() { std::time::Instant::now(); }",
            "use std::time::{Duration, Instant as Moment}; fn a() { Moment::now(); }",
            "use std::time; fn a() -> time::SystemTime { todo() }",
            "fn a(since: Since) { since.elapsed(); }",
            "use crate::base::clock::Clock;",
            "use super::super::base::clock;",
            "async fn a() {}",
            "fn a() { let b = async { 1 }; }",
        ],
        passed: &["use std::time::Duration; fn a(now: Duration) -> Duration { now }"],
    },
    Rule {
        name: "the state, the queue, the wire and the protocol name nothing that moves bytes or threads",
        why: "they are called by the shard; a call upward would be a circle",
        within: PURE,
        except: &[],
        bans: &[Ban::Paths {
            banned: &[
                "crate::io",
                "crate::link::inbox",
                "crate::link::doorbell",
                "crate::journal",
                "crate::base::pin",
                "crate::shard",
                "crate::worker",
            ],
            but: &[],
        }],
        caught: &["use crate::io::outbox::Pool;", "fn a() { super::super::worker::serve(); }"],
        passed: &["use crate::base::id::Tick;"],
    },
    Rule {
        name: "the queue knows neither the state nor a frame nor a disk",
        why: "a message has one owner; whoever may call up has two, and a circle between them",
        within: &["shards/src/queue"],
        except: &[],
        bans: &[Ban::Paths {
            banned: &[
                "crate::state",
                "crate::outbound",
                "crate::protocol",
                "crate::wire",
                "crate::store::disk",
            ],
            but: &[],
        }],
        caught: &["use crate::state::State;", "use crate::outbound::Frame;"],
        passed: &[
            "use crate::store::Store;",
            "#[cfg(test)] mod tests { use crate::state::State; }",
        ],
    },
    Rule {
        name: "the store knows neither the queue nor the state",
        why: "it keeps records; what a message means, and where it is, is its owner's business",
        within: &["shards/src/store"],
        except: &[],
        bans: &[Ban::Paths { banned: &["crate::state", "crate::queue"], but: &[] }],
        caught: &["use crate::queue::Queues;"],
        passed: &["use crate::queued_message::QueuedMessage;"],
    },
    Rule {
        name: "the wire does not know who writes on it",
        why: "bytes have a form before they have a meaning",
        within: &["shards/src/wire"],
        except: &[],
        bans: &[Ban::Paths {
            banned: &[
                "crate::state",
                "crate::queue",
                "crate::store",
                "crate::protocol",
                "crate::notification",
                "crate::outbound",
            ],
            but: &[],
        }],
        caught: &["use crate::state::State;", "use crate::protocol::Event;"],
        passed: &["use crate::base::id::Tick;"],
    },
    Rule {
        name: "the state knows no bytes and no JSON",
        why: "the state tells events; a further client protocol is a module, not a change of the state",
        within: &["shards/src/state"],
        except: &[],
        bans: &[Ban::Paths {
            banned: &["crate::wire", "crate::protocol::ara", "serde", "serde_json", "tungstenite"],
            but: &["crate::wire::close"],
        }],
        caught: &[
            "use crate::wire::websocket;",
            "fn a() { crate::protocol::ara::parse(\"b\").ok(); }",
            "use serde_json::to_vec;",
        ],
        passed: &["use crate::wire::close::CloseReason;", "use crate::protocol::Event;"],
    },
    Rule {
        name: "a protocol and what it encodes do not know the state",
        why: "the state tells a protocol what to say; a call back would be a circle",
        within: &[
            "shards/src/protocol",
            "shards/src/encoding.rs",
            "shards/src/notification.rs",
            "shards/src/outbound.rs",
        ],
        except: &[],
        bans: &[Ban::Paths {
            banned: &["crate::state", "crate::store::disk", "crate::link", "crate::io"],
            but: &[],
        }],
        caught: &["use crate::state::State;", "use crate::link::message::Client;"],
        passed: &["use crate::base::id::Tick;", "use crate::wire::sse;"],
    },
    Rule {
        name: "the engine has no lock, no atomic and no global state",
        why: "a shard's state has one owner, its thread; what crosses threads is a message",
        within: &[ENGINE],
        except: &[DOORBELL],
        bans: &[
            Ban::Paths {
                banned: &[
                    "std::sync::Mutex",
                    "std::sync::RwLock",
                    "std::sync::Condvar",
                    "std::sync::Barrier",
                    "std::sync::Once",
                    "std::sync::OnceLock",
                    "std::sync::LazyLock",
                    "std::sync::atomic",
                    "std::sync::mpsc",
                    "loom",
                    "parking_lot",
                    "dashmap",
                    "tokio::sync",
                ],
                // The way back of one reply, which a shard only carries.
                but: &["tokio::sync::oneshot"],
            },
            Ban::Macros(&["thread_local"]),
            Ban::StaticMut,
        ],
        caught: &[
            "use std::sync::Arc; struct A { b: Arc<std::sync::atomic::AtomicU64> }",
            "use std::sync::atomic::AtomicU64 as Count; struct A { b: Count }",
            "use std::sync; struct A { b: sync::Mutex<u8> }",
            "use std::sync::*; struct A { b: RwLock<u8> }",
            "use core::sync::atomic::AtomicU64;",
            "use std::sync as s; fn a() { let b = vec![s::Mutex::new(1)]; }",
            "static A: std::sync::OnceLock<u8> = std::sync::OnceLock::new();",
            "static mut A: u8 = 1;",
            "thread_local! { static A: u8 = 1; }",
        ],
        passed: &[
            "use std::sync::Arc; struct A { b: Arc<str> }",
            "struct Mutex; fn a() -> Mutex { Mutex }",
            "use tokio::sync::oneshot; struct A(oneshot::Sender<u8>);",
            "#[cfg(test)] mod tests { use std::sync::Mutex; }",
        ],
    },
    Rule {
        name: "the engine shares nothing that can change",
        why: "two threads with one value are two owners",
        within: &[ENGINE],
        except: &[],
        bans: &[Ban::Shares {
            by: SHARED,
            mutable: MUTABLE,
            // Its atomic flag is what the loom test checks.
            but: &["Doorbell"],
        }],
        caught: &[
            "use std::sync::{Arc, atomic::AtomicU64}; struct A { b: Arc<AtomicU64> }",
            "use std::sync::atomic::AtomicU64 as X; type A = std::sync::Arc<X>;",
            "use std::sync::Arc as Shared; use std::cell::Cell; fn a(b: Shared<[Cell<u8>]>) {}",
            "use std::sync::Arc; fn a() { Arc::new(std::cell::RefCell::new(1)); }",
            "use std::{cell::Cell, sync::Arc}; struct B { c: Cell<u8> } struct A { b: Arc<B> }",
            "use std::{cell::Cell, sync::Arc}; type C = Cell<u8>; enum B { D(C) } fn a(b: Arc<B>) {}",
            "use triomphe::ThinArc; struct A { b: ThinArc<std::cell::Cell<u8>, u8> }",
        ],
        passed: &[
            "use std::{rc::Rc, cell::Cell}; struct A { b: Rc<Cell<u8>> }",
            "use std::sync::Arc; struct B { c: u8 } struct A { b: Arc<B> }",
            "use std::sync::Arc; use crate::link::doorbell::Doorbell; struct A { b: Arc<Doorbell> }",
        ],
    },
    Rule {
        name: "every queue has a bound",
        why: "what is not refused at the door is paid for in memory",
        within: &["src", ENGINE],
        except: &[],
        bans: &[Ban::Paths {
            banned: &[
                "crossbeam_channel::unbounded",
                "std::sync::mpsc::channel",
                "tokio::sync::mpsc::unbounded_channel",
            ],
            but: &[],
        }],
        caught: &[
            "use crossbeam_channel as queue; fn a() { let b = queue::unbounded::<u8>(); }",
            "use tokio::sync::mpsc; fn a() { mpsc::unbounded_channel::<u8>(); }",
        ],
        passed: &["fn a() { crossbeam_channel::bounded::<u8>(1); }"],
    },
    Rule {
        name: "two files read the engine's clocks",
        why: "time that is read in many places cannot be moved by a test",
        within: &[ENGINE],
        except: &["shards/src/base/clock.rs", "shards/src/journal/writer.rs"],
        bans: &[
            Ban::Paths {
                banned: &["std::time::Instant::now", "std::time::SystemTime::now"],
                but: &[],
            },
            Ban::Methods(&["elapsed"]),
        ],
        caught: &[
            "use std::time::Instant; fn a() { Instant::now(); }",
            "fn a(begin: std::time::Instant) { begin.elapsed(); }",
        ],
        passed: &["use std::time::Instant; fn a(now: Instant) -> Instant { now }"],
    },
    Rule {
        name: "one file of the engine touches the disk",
        why: "the tests inject faults there; an operation elsewhere would be untested",
        within: &[ENGINE],
        except: &["shards/src/journal/storage.rs"],
        bans: &[Ban::Paths { banned: &["std::fs"], but: &[] }],
        caught: &["use std::fs::File; fn a() { File::open(\"b\").ok(); }"],
        passed: &["use std::path::Path; fn a(b: &Path) {}"],
    },
    Rule {
        name: "only the redis folder names the redis crate",
        why: "another client, or another version, must be a change of one folder",
        within: &["src"],
        except: &["src/redis"],
        bans: &[Ban::Paths { banned: &["redis"], but: &[] }],
        caught: &[
            "fn a() { redis::Client::open(\"b\").ok(); }",
            "use ::redis::Client;",
            "use redis as store; fn a(b: store::Client) {}",
        ],
        passed: &[
            "use crate::redis; fn a() { redis::start(); }",
            "mod redis { pub fn start() {} } fn a() { redis::start(); }",
            "fn a(redis: u8) -> u8 { redis }",
        ],
    },
    Rule {
        name: "JSON from outside has one reader",
        why: "unknown, repeated and null fields, and the words of a fault, are decided once",
        within: &["src/api", "src/intake", "src/redis", "shards/src/wire", "shards/src/protocol"],
        // The last two read what stands in the sources, and what the router wrote.
        except: &["shards/src/wire/json.rs", "src/api/openapi/mod.rs", "src/api/user_queue.rs"],
        bans: &[Ban::Paths {
            banned: &[
                "serde_json::from_reader",
                "serde_json::from_slice",
                "serde_json::from_str",
                "serde_json::from_value",
                "serde_json::Deserializer",
            ],
            but: &[],
        }],
        caught: &[
            "fn a(b: &str) -> B { serde_json::from_str(b).unwrap() }",
            "use serde_json::from_slice as read; fn a(b: &[u8]) -> B { read(b).unwrap() }",
        ],
        passed: &["fn a(b: &B) -> String { serde_json::to_string(b).unwrap() }"],
    },
    Rule {
        name: "the headers of CORS are written in one file",
        why: "what a page may read or send is the same on streams, errors and refusals",
        within: &["src", ENGINE],
        except: &["src/origin.rs"],
        bans: &[Ban::Texts(&["access-control-"])],
        caught: &[
            "const A: &str = \"Access-Control-Allow-Origin: *\";",
            "const A: &[u8] = b\"access-control-max-age\";",
            "fn a() { format!(\"access-control-max-age: {}\", 1); }",
            "use http::header::ACCESS_CONTROL_ALLOW_ORIGIN;",
        ],
        passed: &["// access-control-max-age\nfn access_control() {}"],
    },
];

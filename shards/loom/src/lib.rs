//! Exhaustive interleaving checks of the engine's doorbell.
//!
//! **Runs on**: loom's model threads, only with `RUSTFLAGS='--cfg loom'` (see `scripts/test`).
//! **Owns**: nothing: it compiles the engine's own source file. **Never**: ships.

#[cfg(loom)]
#[path = "../../src/link/doorbell.rs"]
pub mod doorbell;

#[cfg(all(loom, test))]
mod tests {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use loom::thread;

    use super::doorbell::Doorbell;

    /// Property: once the producer is done, the owner has either seen everything or been woken.
    /// The model's queue is a counter written with relaxed ordering: only the bell may order it.
    #[test]
    fn no_wake_up_is_lost() {
        loom::model(|| {
            let woken = Arc::new(AtomicBool::new(false));
            let waker = Arc::clone(&woken);
            let bell = Arc::new(Doorbell::new(move || {
                waker.swap(true, Ordering::AcqRel);
            }));
            let queue = Arc::new(AtomicUsize::new(0));

            let producer = {
                let (bell, queue) = (Arc::clone(&bell), Arc::clone(&queue));
                thread::spawn(move || {
                    for _ in 0..2 {
                        queue.fetch_add(1, Ordering::Relaxed);
                        bell.ring();
                    }
                })
            };

            let mut seen = 0;
            for _ in 0..2 {
                if woken.swap(false, Ordering::Acquire) {
                    bell.answer();
                    seen = queue.load(Ordering::Relaxed);
                }
            }
            producer.join().unwrap();
            if seen < 2 {
                // A swap, as the kernel does for an eventfd: it reads the newest value.
                assert!(woken.swap(false, Ordering::Acquire), "asleep with work: seen {seen} of 2");
                assert!(bell.answer(), "a woken owner finds the bell rung");
                assert_eq!(queue.load(Ordering::Relaxed), 2, "the ring publishes what it follows");
            }
        });
    }
}

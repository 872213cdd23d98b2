//! A minimal owner: numbered records, deletions as notes, an index in memory.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::yield_now;
use std::time::{Duration, Instant};

use ara_shards::journal::storage::Storage;
use ara_shards::journal::{
    AppendError, CommitPoint, Journal, OpenError, Options, Position, RecoveryReport,
};
use ara_shards::link::doorbell::Doorbell;

/// The bytes of record `id`: its number, then as many bytes as the number says.
pub(super) fn body(id: u64, bytes: usize) -> Vec<u8> {
    let mut body = id.to_le_bytes().to_vec();
    body.extend((0_u8..=255).cycle().skip(usize::from(body[0])).take(bytes));
    body
}

#[derive(Debug)]
pub(super) struct Owner {
    pub(super) journal: Journal,
    pub(super) report: RecoveryReport,
    /// Where each live record is.
    pub(super) index: BTreeMap<u64, Position>,
    /// Every record recovery has shown, in its order, with its bytes.
    pub(super) recovered: Vec<(Position, u64, Vec<u8>)>,
}

pub(super) fn silent() -> Arc<Doorbell> {
    Arc::new(Doorbell::new(|| {}))
}

impl Owner {
    pub(super) fn on(storage: impl Storage, options: &Options) -> Result<Self, OpenError> {
        Self::with(|on_record| Journal::open_on(storage, options, on_record, silent()))
    }

    pub(super) fn open(options: &Options) -> Result<Self, OpenError> {
        Self::with(|on_record| Journal::open(options, on_record, silent()))
    }

    fn with(
        open: impl FnOnce(
            &mut dyn FnMut(Position, &[u8]),
        ) -> Result<(Journal, RecoveryReport), OpenError>,
    ) -> Result<Self, OpenError> {
        let mut index = BTreeMap::new();
        let mut deleted = Vec::new();
        let mut recovered = Vec::new();
        let (mut journal, report) = open(&mut |position, bytes| match bytes.split_at_checked(8) {
            // A deletion: eight bytes of 0xFF, then the number of the deleted record.
            Some((head, id)) if head == [0xFF; 8] => {
                deleted.extend(index.remove(&u64::from_le_bytes(id.try_into().unwrap())));
            }
            Some((id, _)) => {
                let id = u64::from_le_bytes(id.try_into().unwrap());
                recovered.push((position, id, bytes.to_vec()));
                deleted.extend(index.insert(id, position));
            }
            None => panic!("a record of {} bytes was never written", bytes.len()),
        })?;
        for position in deleted {
            assert!(journal.release(position), "recovered records are live");
        }
        Ok(Self { journal, report, index, recovered })
    }

    pub(super) fn append(&mut self, id: u64, bytes: usize) -> Result<CommitPoint, AppendError> {
        let position = self.journal.append(&body(id, bytes))?;
        self.index.insert(id, position);
        Ok(position.commit_point())
    }

    /// Appends a note of the deletion and releases the record.
    pub(super) fn delete(&mut self, id: u64) -> Result<(), AppendError> {
        let mut note = vec![0xFF; 8];
        note.extend(id.to_le_bytes());
        self.journal.note(&note)?;
        let position = self.index.remove(&id).expect("it is live");
        assert!(self.journal.release(position));
        assert!(!self.journal.release(position), "a record dies once");
        Ok(())
    }

    /// As [`Self::delete`], tried again until there is room for the note.
    pub(super) fn delete_in_time(&mut self, id: u64) {
        self.until("a death", |owner| match owner.delete(id) {
            Ok(()) => true,
            Err(error) => {
                assert!(matches!(error, AppendError::Full(_)), "{error}");
                owner.compact(100_000);
                owner.journal.flush();
                false
            }
        });
    }

    pub(super) fn compact(&mut self, bytes_max: usize) -> bool {
        let index = &mut self.index;
        self.journal.compact(bytes_max, |old, new, record| {
            let id = u64::from_le_bytes(record[..8].try_into().unwrap());
            assert_eq!(index.insert(id, new), Some(old), "only live records are moved");
        })
    }

    #[expect(clippy::disallowed_methods, reason = "a test that hangs is to fail")]
    pub(super) fn until(&mut self, what: &str, mut reached: impl FnMut(&mut Self) -> bool) {
        let begin = Instant::now();
        loop {
            self.journal.poll();
            if reached(self) {
                return;
            }
            assert!(
                begin.elapsed() < Duration::from_secs(20),
                "{what}: {:?}",
                self.journal.stats()
            );
            yield_now();
        }
    }

    /// Flushes and waits until all is committed.
    pub(super) fn commit(&mut self) -> CommitPoint {
        let commit_point = self.journal.flush();
        self.until("commit", |owner| owner.journal.committed() >= commit_point);
        commit_point
    }
}

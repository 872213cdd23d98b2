//! The addresses that have shown too many tokens that were no good, as doors see them.
//!
//! **Runs on**: written by the router, read by doors, without a lock. **Owns**: 32 KiB. **Never**: decides
//! anything: the router's bucket is what counts, this is a copy that spares doors a signature.
//!
//! A slot is one word: when a bucket will be full, and a part of its address's hash. Two addresses that
//! share a slot overwrite each other; the one that is lost is refused by the router, after its token was
//! verified. The hash is seeded at random, so nobody can choose whom to displace.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ahash::RandomState;
use ara_shards::base::token_bucket::{Rate, TokenBucket};

use super::address::AddressBlock;
use super::buckets::Quota;

const SLOTS: u32 = 4096;
/// The bits of a slot for the time, in milliseconds: 34 years. The rest is of the hash.
const TIME_BITS: u32 = 40;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// Buckets that were empty when they were last looked at.
#[derive(Debug)]
pub struct BlockedAddresses {
    slots: Box<[AtomicU64]>,
    hasher: RandomState,
    /// Tokens that were not looked at.
    refused: AtomicU64,
    /// When time began.
    epoch: Instant,
}

impl Default for BlockedAddresses {
    fn default() -> Self {
        let slots = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self {
            slots,
            hasher: RandomState::new(),
            refused: AtomicU64::new(0),
            epoch: Instant::now(),
        }
    }
}

impl BlockedAddresses {
    /// The time of all buckets.
    pub(super) fn now_ns(&self) -> u64 {
        let elapsed = self.epoch.elapsed().as_nanos();
        u64::try_from(elapsed).expect("a process runs for less than 500 years")
    }

    /// Whether a token of an address is looked at under this rate; if not, that is counted.
    ///
    /// # Errors
    ///
    /// What is left to the address, which is nothing.
    pub fn check(&self, address: AddressBlock, rate: Rate) -> Result<(), Quota> {
        let Some(bucket) = self.bucket_of(address) else { return Ok(()) };
        let level = bucket.level(rate, self.now_ns());
        if level.tokens > 0 {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Quota { limit: rate.burst(), level })
    }

    /// How many tokens were not looked at.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn bucket_of(&self, address: AddressBlock) -> Option<TokenBucket> {
        let (slot, mark) = self.place(address);
        let value = slot.load(Ordering::Relaxed);
        let full_at = Duration::from_millis(value & TIME_MASK);
        let is_marked = value & !TIME_MASK == mark;
        let full_at_ns = u64::try_from(full_at.as_nanos()).expect("34 years, in nanoseconds");
        is_marked.then(|| TokenBucket::full_at(full_at_ns))
    }

    /// Shows doors an address's bucket, which is empty.
    pub(super) fn publish(&self, address: AddressBlock, bucket: TokenBucket) {
        let (slot, mark) = self.place(address);
        // Rounded up: a door may be late, but is not to let one through that the router would refuse.
        let full_at_ms = bucket.full_at_ns().div_ceil(1_000_000) & TIME_MASK;
        slot.store(mark | full_at_ms, Ordering::Relaxed);
    }

    /// Forgets all addresses.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            slot.store(0, Ordering::Relaxed);
        }
    }

    /// The slot of an address, and what marks it there in the upper bits.
    fn place(&self, address: AddressBlock) -> (&AtomicU64, u64) {
        let hash = self.hasher.hash_one(address);
        let index = usize::try_from(hash % u64::from(SLOTS)).expect("it is less than the slots");
        // An empty slot is zero, so no address may have that as its mark.
        let mark = (hash >> TIME_BITS).max(1) << TIME_BITS;
        (self.slots.get(index).expect("a remainder is less than its divisor"), mark)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_door_sees_an_empty_bucket_until_it_has_a_token() {
        let blocked = BlockedAddresses::default();
        let rate = Rate::new(1, Duration::from_secs(1000), 2);
        let [one, other] = [AddressBlock::V4(1), AddressBlock::V6(1)];
        assert_eq!(blocked.check(one, rate), Ok(()));
        let mut bucket = TokenBucket::default();
        while bucket.take(rate, blocked.now_ns()) {}
        blocked.publish(one, bucket);
        let quota = blocked.check(one, rate).unwrap_err();
        assert_eq!((quota.limit, quota.level.tokens), (2, 0));
        assert!(quota.level.next_in > Duration::from_secs(990));
        assert_eq!(blocked.check(other, rate), Ok(()));
        blocked.publish(one, TokenBucket::full_at(blocked.now_ns() + 1_000_000_000));
        assert_eq!(blocked.check(one, rate), Ok(()), "there is a token again");
        blocked.publish(one, bucket);
        blocked.clear();
        assert_eq!(blocked.check(one, rate), Ok(()));
        assert_eq!(blocked.refused(), 1);
    }

    #[test]
    fn of_many_addresses_none_is_taken_for_another() {
        let blocked = BlockedAddresses::default();
        let rate = Rate::new(1, Duration::from_secs(1000), 1);
        let bucket = TokenBucket::full_at(blocked.now_ns() + 900_000_000_000);
        (0..SLOTS).for_each(|address| blocked.publish(AddressBlock::V4(address), bucket));
        let strangers = (1 << 20..(1 << 20) + 20_000).map(AddressBlock::V4);
        // One of 16 million, by chance.
        assert!(strangers.filter(|stranger| blocked.check(*stranger, rate).is_err()).count() <= 1);
        let last = AddressBlock::V4(SLOTS - 1);
        assert!(blocked.check(last, rate).is_err(), "the newest is there whomever it displaced");
    }
}

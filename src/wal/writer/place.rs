//! Giving batches their LSNs and their place: groups are gathered, closed and rolled here.
//!
//! ```text
//! backlog --place--> Gather (one aligned buffer, frames side by side) --close--> Group
//!         --large---------------------------------------------------------------> Group
//! ```
//!
//! Invariants: an LSN is given only when the frame's place in a prepared segment is certain; a
//! group starts on a fresh block, the rest of its last block is zeros; a frame's header does not
//! cross a block boundary; no stale byte of a buffer reaches the disk.

use std::time::Duration;

use crate::bugs::{self, Bug};
use crate::cast::{len, nanos, round_up};
use crate::error::{Error, ErrorKind};
use crate::format::Nonce;
use crate::format::frame::{Codec, FRAME_HEADER_LEN, FrameHeader, Tag};
use crate::io::Buf;
use crate::lsn::{Lsn, LsnRange};
use crate::options::{Durability, SyncMethod};
use crate::segment::Made;

use super::super::encode::{BodyFields, Encoded};
use super::super::mailbox::Taken;
use super::super::metrics::{Meters, add};
use super::super::shared::{Asked, GROUP_BYTES, LARGE, Pending};
use super::flight::{Counts, Group, Placed, Stage};
use super::gather::Gather;
use super::{Ending, Writer};

/// So many queued bytes are worth a group of their own while others are in flight.
const WORTH_BYTES: usize = 32 << 10;
/// So many groups are kept in flight whatever their size. With 8 callers who wait, 4 make 1.2 times
/// as many single records durable as 2; with 64, as with 8 groups, it makes no difference.
const ALWAYS: usize = 4;

/// What became of the batch at the head of the backlog.
enum Fit {
    Placed,
    /// The gathered group has to go first.
    CloseFirst,
    /// The open segment has no room for it.
    NextSegment,
}

impl Writer {
    /// Places what is queued and closes groups as the pipeline has room for them.
    pub(super) fn form_groups(&mut self) {
        self.time_us = self.time_us.max(self.shared.world.host.wall_us());
        loop {
            self.place_queued();
            // Who waited for records to come waits for those that have come now.
            self.want = self.want.max(self.waits.greatest(self.next_lsn.prev()));
            if !self.close_is_due() {
                break;
            }
            self.close_gather();
        }
        if self.mark_due().is_some_and(|due| due <= self.now) {
            self.place_mark();
        }
    }

    fn place_queued(&mut self) {
        while !self.backlog.is_empty() {
            match self.fit_head() {
                Fit::Placed => {}
                Fit::CloseFirst if self.may_submit(true) => self.close_gather(),
                Fit::CloseFirst => return,
                Fit::NextSegment => {
                    if !self.roll() {
                        return;
                    }
                }
            }
        }
    }

    /// Places the first batch of the backlog, if there is a place for it.
    fn fit_head(&mut self) -> Fit {
        let Some(head) = self.backlog.front() else { return Fit::Placed };
        if let Some(expected) = head.expected
            && expected != self.next_lsn
        {
            self.refuse_head(expected);
            return Fit::Placed;
        }
        let frame_len = head.encoded.frame_len;
        let whole = round_up(frame_len as u64, self.shared.block);
        if frame_len >= LARGE {
            if self.gather.is_some() || !self.may_submit(true) {
                return Fit::CloseFirst;
            }
            if !self.next_lane(whole) {
                return Fit::NextSegment;
            }
            self.place_large();
            return Fit::Placed;
        }
        let Some(gather) = &self.gather else {
            if !self.next_lane(whole) {
                return Fit::NextSegment;
            }
            self.start_gather();
            return self.fit_head();
        };
        let pos = gather.next_start(self.shared.block);
        if pos + frame_len > gather.buf.capacity().min(GROUP_BYTES) {
            return Fit::CloseFirst;
        }
        let end = round_up((pos + frame_len) as u64, self.shared.block);
        if end > self.lanes.current().left() {
            // What was gathered still belongs to this segment.
            return Fit::CloseFirst;
        }
        self.place_small(pos);
        Fit::Placed
    }

    /// Answers a batch that was wanted elsewhere than where the log is by now.
    fn refuse_head(&mut self, expected: Lsn) {
        let batch = self.backlog.pop_front().expect("the caller looked at it");
        let next = self.next_lsn;
        let why = format!("it was to be record {expected}, the next record is {next}");
        add(&self.shared.meters.refused, 1);
        self.shared.refuse(batch, Error::invalid("append_at", why));
    }

    /// Gives the turn to a lane with room for a group of `bytes`, or of more; false if there is
    /// none. A segment that is ready is opened where it serves; none is waited for.
    fn next_lane(&mut self, bytes: u64) -> bool {
        if self.lanes.want_one(bytes)
            && let Some(made) = self.shared.mailbox.take_ready(bytes)
        {
            self.open_lane(made);
            return true;
        }
        self.lanes.next_turn(bytes)
    }

    fn open_lane(&mut self, made: Made) {
        self.lanes.open(made);
        self.shared.mailbox.unsealed(self.lanes.unsealed());
    }

    fn start_gather(&mut self) {
        let tail = self.lanes.current().tail;
        let buf = self.shared.pool.take(GROUP_BYTES);
        let durable_upto = self.shared.catalog.durable();
        let batches = self.lists.pop().unwrap_or_default();
        self.gather = Some(Gather::new(buf, tail, self.next_lsn, durable_upto, self.now, batches));
    }

    fn place_small(&mut self, pos: usize) {
        let batch = self.backlog.pop_front().expect("the caller looked at it");
        let at = self.gather.as_ref().expect("the caller started it").at;
        let (header, nonce) = self.header(&batch, at + pos as u64);
        let gather = self.gather.as_mut().expect("looked at above");
        gather.put(pos, &header, &nonce, &batch);
        let range = LsnRange::new(header.first_lsn, header.count);
        let Pending { durability, answer, grant, asked, encoded, .. } = batch;
        let placed = Placed { answer, range, durability, called_ns: asked.called_ns };
        let waits = queued(placed, asked, &self.shared.meters, nanos(self.now));
        self.answered |= waits.is_none();
        gather.batches.extend(waits);
        drop(grant);
        self.shared.pool.give(encoded.buf);
    }

    /// Writes a large batch from the buffer its caller encoded it into.
    fn place_large(&mut self) {
        let batch = self.backlog.pop_front().expect("the caller looked at it");
        let at = self.lanes.current().tail;
        let (header, nonce) = self.header(&batch, at);
        let range = LsnRange::new(header.first_lsn, header.count);
        let Pending { encoded, record_bytes, durability, answer, grant, asked, .. } = batch;
        let Encoded { mut buf, frame_len, .. } = encoded;
        let bytes = buf.bytes_mut().expect("the caller gave its only handle away");
        header.encode(&nonce, at, bytes);
        self.lanes.current().tail += buf.len() as u64;
        drop(grant);
        let placed = Placed { answer, range, durability, called_ns: asked.called_ns };
        let mut batches = self.lists.pop().unwrap_or_default();
        let waits = queued(placed, asked, &self.shared.meters, nanos(self.now));
        self.answered |= waits.is_none();
        batches.extend(waits);
        let counts = Counts { batches: 1, record_bytes };
        let group = self.group((at, frame_len), buf, range.first(), counts, durability, batches);
        self.launch(group);
    }

    /// Gives the batch its LSNs and says so in a header, which goes under the nonce.
    fn header(&mut self, batch: &Pending, offset: u64) -> (FrameHeader, Nonce) {
        let lane = self.lanes.current();
        let stored_len = batch.encoded.frame_len - FRAME_HEADER_LEN;
        let BodyFields { codec, count, raw_len, payload_crc } = batch.encoded.body;
        let durable_upto = match &self.gather {
            Some(gather) => gather.durable_upto,
            None => self.shared.catalog.durable(),
        };
        let early = bugs::on(Bug::WatermarkTooEarly);
        let durable_upto = if early { self.next_lsn.prev() } else { durable_upto };
        let header = FrameHeader {
            tag: Tag::Batch,
            codec,
            flags: 0,
            stream: 0,
            count,
            stored_len: u32::try_from(stored_len).expect("a batch is bounded"),
            raw_len,
            payload_crc,
            first_lsn: self.next_lsn,
            durable_upto,
            time_us: self.time_us,
            number: lane.segment.id.number,
            epoch: lane.segment.id.epoch,
        };
        assert!(durable_upto < header.first_lsn, "a promise about the future");
        lane.summary.add(offset, &header);
        let nonce = lane.segment.id.nonce;
        self.marked = self.marked.max(durable_upto);
        self.next_lsn = self.next_lsn.plus(u64::from(count));
        self.shared.catalog.set_next(self.next_lsn);
        (header, nonce)
    }

    /// Whether the gathered group should go now.
    fn close_is_due(&self) -> bool {
        let Some(gather) = &self.gather else { return false };
        let config = &self.shared.config.batch_config;
        let waited = gather.level > Durability::Queued || self.want >= gather.first;
        let full = gather.records >= config.max_batch_size
            || gather.used >= config.max_buffer_bytes.min(GROUP_BYTES);
        let ripe =
            waited || full || self.must_flush() || self.linger_due().is_some_and(|t| t <= self.now);
        ripe && self.may_submit(gather.used >= WORTH_BYTES)
    }

    /// Whether everything has to become durable, waited for or not.
    pub(super) fn must_flush(&self) -> bool {
        !matches!(self.ending, Ending::No) || self.is_cutting()
    }

    /// Whether the pipeline takes one more group, of a size that is worth one or not.
    fn may_submit(&self, worth: bool) -> bool {
        let (in_flight, depth) = (self.flight.in_flight(), self.shared.config.depth);
        let has_place = in_flight < ALWAYS.min(depth) || worth && in_flight < depth;
        has_place && !self.lanes.wait_for_syncs()
    }

    /// How many more bytes would let it submit; none if only a completion can.
    pub(super) fn could_submit_at(&self) -> Option<usize> {
        if self.may_submit(false) || self.poisoned {
            return Some(1);
        }
        let gathered = self.gather.as_ref().map_or(0, |gather| gather.used);
        self.may_submit(true).then(|| WORTH_BYTES.saturating_sub(gathered).max(1))
    }

    /// When the group that nobody waits for has gathered long enough.
    pub(super) fn linger_due(&self) -> Option<Duration> {
        let gather = self.gather.as_ref()?;
        let linger = Duration::from_millis(self.shared.config.batch_config.linger_ms);
        self.may_submit(gather.used >= WORTH_BYTES).then(|| gather.since + linger)
    }

    fn close_gather(&mut self) {
        let Some(mut gather) = self.gather.take() else { return };
        gather.pad(self.shared.block);
        let lane = self.lanes.current();
        debug_assert_eq!(lane.tail, gather.at);
        lane.tail += gather.buf.len() as u64;
        let Gather { at, used, first, counts, level, batches, buf, .. } = gather;
        let group = self.group((at, used), buf, first, counts, level, batches);
        self.launch(group);
    }

    /// A group of the lane whose turn it is; its frames take `used` bytes from `at` on.
    fn group(
        &mut self,
        (at, used): (u64, usize),
        buf: Buf,
        first: Lsn,
        counts: Counts,
        level: Durability,
        batches: Vec<Placed>,
    ) -> Group {
        let needs_durable = level == Durability::Sync || self.want >= first;
        Group {
            segment: self.lanes.current().number(),
            at,
            pieces_left: buf.len().div_ceil(GROUP_BYTES),
            buf: Some(buf),
            first,
            last: self.next_lsn.prev(),
            end: at + used as u64,
            counts,
            time_us: self.time_us,
            since: self.now,
            dsync: needs_durable && self.shared.sync_choice.method() == SyncMethod::Dsync,
            needs_durable,
            batches,
            stage: Stage::Writing,
        }
    }

    /// Hands a closed group to the queue.
    fn launch(&mut self, mut group: Group) {
        if group.needs_durable {
            self.want = self.want.max(group.last);
        }
        for placed in &mut group.batches {
            placed.answer.submitted();
        }
        if bugs::on(Bug::EarlyAcknowledgement) {
            group.answer_upto(Durability::Sync, &self.shared.meters, nanos(self.now));
        }
        self.idle_since = self.now;
        let bytes = group.buf.as_ref().map_or(0, Buf::len) as u64;
        let (used, of) = self.lanes.placed(bytes);
        self.shared.mailbox.used(used, of);
        self.send_group(group);
    }

    /// A frame without records that says how far the promise goes.
    fn place_mark(&mut self) {
        if !self.lanes.next_turn(self.shared.block) {
            // They are full to the last block.
            match self.shared.mailbox.take_ready(self.shared.block) {
                Some(made) => self.open_lane(made),
                // A segment that is being made may be ready by then.
                None => {
                    self.idle_since = self.now;
                    return;
                }
            }
        }
        let lane = self.lanes.current();
        let (at, id) = (lane.tail, lane.segment.id);
        let durable_upto = self.shared.catalog.durable();
        let header = FrameHeader {
            tag: Tag::Mark,
            codec: Codec::None,
            flags: 0,
            stream: 0,
            count: 0,
            stored_len: 0,
            raw_len: 0,
            payload_crc: 0,
            first_lsn: Lsn::NONE,
            durable_upto,
            time_us: self.time_us,
            number: id.number,
            epoch: id.epoch,
        };
        lane.summary.add(at, &header);
        lane.tail += self.shared.block;
        self.marked = durable_upto;
        let mut buf = Buf::zeroed(len(self.shared.block), len(self.shared.block));
        header.encode(&id.nonce, at, buf.bytes_mut().expect("just allocated"));
        let first = self.next_lsn;
        let (place, none) = ((at, FRAME_HEADER_LEN), Counts::default());
        let group = self.group(place, buf, first, none, Durability::Sync, Vec::new());
        self.launch(group);
        // Idle since a second: a good moment for telling how it was.
        self.shared.mailbox.nudge();
    }

    /// Goes on in the next segment; false if there is none yet.
    fn roll(&mut self) -> bool {
        self.close_gather();
        let Some(head) = self.backlog.front() else { return false };
        let needed = round_up(head.encoded.frame_len as u64, self.shared.block);
        match self.shared.mailbox.take(needed) {
            Taken::Ready(made) => {
                self.open_lane(made);
                true
            }
            Taken::Wait => false,
            Taken::Failed(error) if bugs::on(Bug::PoisonedByFullDisk) => {
                self.poison(error);
                false
            }
            Taken::Failed(error) => {
                // Everything that is queued at this moment hears it; what comes later asks anew.
                while let Some(batch) = self.shared.next_batch() {
                    self.backlog.push_back(batch);
                }
                self.fail_backlog(&error);
                // Sealed, they can be truncated away: on a full disk that may be the only space.
                self.lanes.roll_used(self.shared.catalog.first());
                self.shared.mailbox.unsealed(self.lanes.unsealed());
                false
            }
        }
    }

    fn fail_backlog(&mut self, error: &Error) {
        if !matches!(self.ending, Ending::No) {
            self.lost = Some(error.clone());
        }
        let meters = &self.shared.meters;
        let full = error.kind() == ErrorKind::StorageFull;
        let count = if full { &meters.storage_full } else { &meters.failed };
        add(count, self.backlog.len() as u64);
        for batch in self.backlog.drain(..) {
            self.shared.refuse(batch, error.clone());
        }
    }
}

/// Answers a `Queued` batch at once; others wait for their level.
fn queued(placed: Placed, asked: Asked, meters: &Meters, now_ns: u64) -> Option<Placed> {
    if asked.roomed_ns > asked.called_ns {
        meters.room_ns.record(asked.roomed_ns - asked.called_ns);
    }
    meters.queue_ns.record(now_ns.saturating_sub(asked.roomed_ns));
    if placed.durability == Durability::Queued {
        placed.done(meters, now_ns);
        return None;
    }
    Some(placed)
}

//! What was done to a log and at which positions of a tape, or of the lines that a child said; what
//! a cut, or a kill, may leave of it.
//!
//! A call that had returned at the position of the cut has happened; one that had not begun has
//! not; one in between may have. Calls that change the log wait for each other here, but for
//! appends, whose order is that of their LSNs.
#![allow(dead_code, reason = "each test uses its own part")]

use std::collections::BTreeSet;

use crate::support;

/// One call. `begun` is a position before it, `done` one after it returned.
pub enum Op {
    /// Records `first..=last`, with the content of `version`.
    Append { first: u64, last: u64, version: u64, begun: u64 },
    /// All up to `last` is promised.
    Durable { last: u64, done: u64 },
    /// Records below `first` are cut.
    CutBefore { first: u64, begun: u64, done: u64 },
    /// Records above `last` are cut.
    CutAfter { last: u64, begun: u64, done: u64 },
    /// The user slot is set.
    State { number: u64, begun: u64, done: u64 },
    /// The log was opened and served this: no later crash loses it.
    Served { first: u64, last: u64, state: u64, done: u64 },
}

/// Records in a row that were appended with one content.
#[derive(Clone)]
struct Span {
    first: u64,
    last: u64,
    version: u64,
}

/// What may be found.
#[derive(Clone)]
pub struct Expected {
    firsts: BTreeSet<u64>,
    /// By LSN, dense.
    spans: Vec<Span>,
    /// Up to here all must be there.
    must: u64,
    /// Or exactly up to here: a cut of the end was under way.
    cut_at: Option<u64>,
    states: BTreeSet<u64>,
}

/// What was found.
#[derive(PartialEq, Eq)]
pub struct Found {
    pub first: u64,
    pub records: Vec<Vec<u8>>,
    pub state: u64,
}

impl Found {
    pub fn last(&self) -> u64 {
        self.first + self.records.len() as u64 - 1
    }
}

/// What is to be told of a check.
#[derive(Clone, Copy, Default)]
pub struct Verdict {
    pub promised: u64,
    pub lost: u64,
    /// Records that nobody was promised and that survived.
    pub more: u64,
}

/// The content of a record.
pub fn content(version: u64, lsn: u64) -> Vec<u8> {
    support::record(version, lsn)
}

impl Expected {
    /// A file system without a log.
    pub fn nothing() -> Expected {
        let one = |number| BTreeSet::from([number]);
        Expected { firsts: one(1), spans: Vec::new(), must: 0, cut_at: None, states: one(0) }
    }

    fn apply(&mut self, op: &Op, position: u64) {
        match *op {
            Op::Append { first, last, version, begun } if begun <= position => {
                self.spans.push(Span { first, last, version });
            }
            Op::Durable { last, done } if done <= position => self.must = self.must.max(last),
            Op::CutBefore { first, begun, done } if begun <= position => {
                if done <= position {
                    self.firsts.clear();
                }
                self.firsts.insert(first);
            }
            Op::CutAfter { last, begun, done } if begun <= position => {
                if done <= position {
                    self.keep_to(last);
                } else {
                    self.cut_at = Some(last);
                }
            }
            Op::State { number, begun, done } if begun <= position => {
                if done <= position {
                    self.states.clear();
                }
                self.states.insert(number);
            }
            Op::Served { first, last, state, done } if done <= position => {
                self.keep_to(last);
                (self.firsts, self.states) = (BTreeSet::from([first]), BTreeSet::from([state]));
                self.cut_at = None;
            }
            _ => {}
        }
    }

    fn keep_to(&mut self, last: u64) {
        self.spans.retain(|span| span.first <= last);
        if let Some(span) = self.spans.last_mut() {
            span.last = span.last.min(last);
        }
        self.must = last;
    }

    /// How many of the promised records are missing; anything else that is wrong panics.
    pub fn check(&self, found: &Found) -> Verdict {
        let (first, last) = (found.first, found.last());
        assert!(self.firsts.contains(&first), "starts at {first}, not at {:?}", self.firsts);
        assert!(self.states.contains(&found.state), "{} in {:?}", found.state, self.states);
        let mut spans = self.spans.iter().skip_while(|span| span.last < first);
        let mut span = spans.next();
        for (lsn, bytes) in (first..).zip(&found.records) {
            span = if span.is_some_and(|span| span.last < lsn) { spans.next() } else { span };
            let version = span.unwrap_or_else(|| panic!("nobody appended {lsn} yet")).version;
            assert!(*bytes == content(version, lsn), "record {lsn} is another");
        }
        let whole = self.spans.iter().any(|span| span.last == last);
        let is_cut = self.cut_at == Some(last);
        assert!(whole || is_cut || last < first, "half a batch: it ends at {last}");
        let promised = if is_cut { last } else { self.must };
        let lost = promised.saturating_sub(last);
        let kept_from = first.min(promised + 1);
        Verdict { promised: promised + 1 - kept_from, lost, more: last.saturating_sub(promised) }
    }
}

/// All that was done since the tape began.
pub struct History {
    pub start: Expected,
    pub ops: Vec<Op>,
}

impl History {
    pub fn new(start: Expected) -> History {
        History { start, ops: Vec::new() }
    }

    /// What a cut at `position` may leave.
    pub fn expected(&self, position: u64) -> Expected {
        let mut expected = self.start.clone();
        self.ops.iter().for_each(|op| expected.apply(op, position));
        expected
    }

    /// The positions at which something was promised.
    pub fn promises(&self) -> Vec<u64> {
        let promise = |op: &Op| match *op {
            Op::Durable { done, .. }
            | Op::CutBefore { done, .. }
            | Op::CutAfter { done, .. }
            | Op::State { done, .. }
            | Op::Served { done, .. } => Some(done),
            Op::Append { .. } => None,
        };
        self.ops.iter().filter_map(promise).collect()
    }
}

#[test]
fn the_check_tells_lost_from_foreign_from_torn() {
    let mut history = History::new(Expected::nothing());
    history.ops.push(Op::Append { first: 1, last: 3, version: 7, begun: 10 });
    history.ops.push(Op::Durable { last: 3, done: 20 });
    history.ops.push(Op::Append { first: 4, last: 5, version: 7, begun: 21 });
    let found = |records: std::ops::Range<u64>| Found {
        first: 1,
        records: records.map(|lsn| content(7, lsn)).collect(),
        state: 0,
    };
    let fails = |position, found: Found| {
        std::panic::catch_unwind(|| history.expected(position).check(&found)).is_err()
    };
    assert_eq!(history.expected(30).check(&found(1..4)).lost, 0);
    assert_eq!(history.expected(30).check(&found(1..6)).more, 2);
    assert_eq!(history.expected(30).check(&found(1..1)).lost, 3);
    assert_eq!(history.expected(19).check(&found(1..1)).lost, 0);
    assert!(fails(30, found(1..5)), "half a batch");
    assert!(fails(20, found(1..6)), "appended later");
    assert!(fails(30, found(2..5)), "other LSNs");
    assert!(fails(30, Found { state: 1, ..found(1..4) }), "a state that nobody set");
}

//! The records of one transaction: those that came, and those that were parked and whose turn comes with them.

use std::collections::HashSet;

use super::Step;
use super::order::{Holds, Parked};
use super::retry::Origin;
use super::rows::{EventRows, Id, Row};
use crate::engine::{Batch, Rows};
use crate::flow::packed::PackedRecord;
use crate::record::Partition;

/// The records of one transaction, in the order in which they are looked at.
pub struct Group<'a> {
    pub batches: &'a [&'a Batch<EventRows>],
    parked: Option<&'a Parked>,
    pub places: Vec<Place>,
}

/// Where a record is in the batches; in the one behind the last are those that were parked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub batch: usize,
    row: usize,
}

impl<'a> Group<'a> {
    pub fn new(batches: &'a [&'a Batch<EventRows>]) -> Self {
        let rows = |batch: usize| (0..batches[batch].rows.len()).map(move |row| Place { batch, row });
        Group { batches, parked: None, places: (0..batches.len()).flat_map(rows).collect() }
    }

    /// The same with those whose turn may come: a head goes first, and behind it those that wait for it.
    pub fn with_parked(mut self, holds: &'a Holds) -> Self {
        if holds.heads.is_empty() {
            return self;
        }
        let (heads, others): (Vec<usize>, Vec<usize>) = (0..self.len()).partition(|index| holds.is_head(&self, *index));
        let mut places = Vec::with_capacity(self.len() + holds.parked.places.len());
        let mut seen = HashSet::new();
        for index in heads {
            places.push(self.places[index]);
            let key = self.key(index).filter(|key| seen.insert(*key));
            let waiting =
                holds.parked.places.iter().enumerate().filter(|(_, (parked, ..))| Some(parked.as_slice()) == key);
            places.extend(waiting.map(|(row, _)| Place { batch: self.batches.len(), row }));
        }
        places.extend(others.into_iter().map(|index| self.places[index]));
        self.places = places;
        self.parked = Some(&holds.parked);
        self
    }

    pub fn len(&self) -> usize {
        self.places.len()
    }

    fn rows(&self, batch: usize) -> &'a EventRows {
        match self.batches.get(batch) {
            Some(batch) => &batch.rows,
            None => &self.parked.expect("a place among the parked").rows,
        }
    }

    pub fn row(&self, index: usize) -> &'a Row {
        let Place { batch, row } = self.places[index];
        &self.rows(batch).rows()[row]
    }

    pub fn packed(&self, index: usize) -> PackedRecord<'a> {
        let Place { batch, row } = self.places[index];
        self.rows(batch).packed(row)
    }

    pub fn key(&self, index: usize) -> Option<&'a [u8]> {
        self.packed(index).key
    }

    /// Its number among the parked ones, if it is one of them.
    pub fn parked(&self, index: usize) -> Option<usize> {
        let Place { batch, row } = self.places[index];
        (batch == self.batches.len()).then_some(row)
    }

    /// None of a letter's record: its id was remembered when it was set aside, and what is applied once is the letter.
    pub fn ids(&self) -> impl Iterator<Item = Option<Id>> {
        let is_replay = self.is_replay();
        (0..self.len()).map(move |index| self.row(index).id.filter(|_| !is_replay))
    }

    pub fn is_replay(&self) -> bool {
        self.batches.iter().any(|batch| batch.is_replay())
    }

    /// The ids of those that will not come again.
    pub fn finished(&self, steps: &[Step]) -> Vec<Id> {
        let is_new = |step: &Step| matches!(step, Step::Processed | Step::Dropped | Step::Dead);
        self.ids().zip(steps).filter(|(_, step)| is_new(step)).filter_map(|(id, _)| id).collect()
    }

    /// Where the record was read; of one that was parked, where it began.
    pub fn source(&self, index: usize) -> (Partition, i64) {
        let Place { batch, row } = self.places[index];
        match self.batches.get(batch) {
            Some(batch) => (batch.partition().clone(), batch.offsets[row]),
            None => {
                let origin = self.origin(index);
                (Partition { topic: origin.topic, id: origin.partition }, origin.offset)
            }
        }
    }

    pub fn origin(&self, index: usize) -> Origin {
        let Row { origin, timestamp_ms, .. } = self.row(index);
        match origin {
            Some(origin) => (**origin).clone(),
            None => {
                let (partition, offset) = self.source(index);
                Origin::of(&partition, offset, *timestamp_ms)
            }
        }
    }

    /// What a handler made of a record,
    pub fn made(&self, number: usize, index: usize) -> &'a [u8] {
        let Place { batch, row } = self.places[index];
        self.rows(batch).of_handler(number, row..row + 1)
    }

    /// and of these, in as few pieces as it lies in.
    pub fn made_of_all(&self, number: usize, records: &[usize]) -> Vec<&'a [u8]> {
        let mut pieces = Vec::new();
        let mut records = records.iter().map(|index| self.places[*index]).peekable();
        while let Some(first) = records.next() {
            let mut last = first.row;
            while records.next_if_eq(&Place { row: last + 1, ..first }).is_some() {
                last += 1;
            }
            pieces.push(self.rows(first.batch).of_handler(number, first.row..last + 1));
        }
        pieces
    }
}

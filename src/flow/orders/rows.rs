//! Decoded orders of one batch: what a decision needs, beside the fields of each as COPY takes them. What is decided
//! later, the status and its reason, comes after those fields.

use std::collections::HashMap;
use std::ops::Range;

use uuid::Uuid;

use super::order::{Order, Wish};
use super::stock::{Reason, Verdict};
use crate::engine::Rows;
use crate::pg::copy::field;
use crate::trace::Trace;

/// Columns of `sql/orders/copy.sql`.
const COLUMNS: i16 = 9;

/// One order. Its product is a number in the batch's list of products.
#[derive(Clone, Debug)]
pub struct Row {
    pub order_id: Uuid,
    pub product: usize,
    pub quantity: i32,
    /// Where its encoded fields end; they begin where those of the row before end.
    end: usize,
}

#[derive(Clone, Debug, Default)]
pub struct OrderRows {
    rows: Vec<Row>,
    /// The fields that are known before the decision.
    fields: Vec<u8>,
    products: Vec<String>,
    product_numbers: HashMap<String, usize>,
    /// Of the rows that belong to one, in their order.
    traces: Vec<(usize, Trace)>,
}

impl OrderRows {
    /// `created_at_us` on PostgreSQL's own clock.
    pub fn add(&mut self, order: &Order<'_>, created_at_us: i64) {
        let Wish { customer_id, product_id, quantity, amount } = &order.wish;
        let out = &mut self.fields;
        field(out, Some(order.order_id.as_bytes()));
        field(out, Some(customer_id.as_bytes()));
        field(out, Some(product_id.as_bytes()));
        field(out, Some(&quantity.to_be_bytes()));
        let (bytes, len) = amount.numeric();
        field(out, Some(&bytes[..len]));
        field(out, Some(&created_at_us.to_be_bytes()));
        let end = out.len();
        let product = self.product_number(product_id);
        self.rows.push(Row { order_id: order.order_id, product, quantity: *quantity, end });
    }

    /// The row that was added last belongs to this trace.
    pub fn trace(&mut self, trace: Trace) {
        self.traces.push((self.rows.len().saturating_sub(1), trace));
    }

    pub fn trace_of(&self, row: usize) -> Option<Trace> {
        let at = self.traces.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        Some(self.traces[at].1)
    }

    fn product_number(&mut self, product_id: &str) -> usize {
        if let Some(number) = self.product_numbers.get(product_id) {
            return *number;
        }
        let number = self.products.len();
        self.products.push(product_id.to_owned());
        self.product_numbers.insert(product_id.to_owned(), number);
        number
    }

    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The products of these orders, by their number.
    pub fn products(&self) -> &[String] {
        &self.products
    }

    /// The fields of one row, as they were encoded.
    pub fn fields(&self, row: usize) -> &[u8] {
        &self.fields[self.start(row)..self.rows[row].end]
    }

    fn start(&self, row: usize) -> usize {
        row.checked_sub(1).map_or(0, |before| self.rows[before].end)
    }

    /// Appends the whole row for COPY.
    pub fn copy(&self, row: usize, verdict: Verdict, out: &mut Vec<u8>) {
        out.extend_from_slice(&COLUMNS.to_be_bytes());
        out.extend_from_slice(self.fields(row));
        field(out, Some(verdict.status().as_bytes()));
        match verdict {
            Verdict::Reserved { bucket } => {
                field(out, None);
                field(out, Some(&bucket.to_be_bytes()));
            }
            Verdict::Rejected(reason) => {
                field(out, Some(Reason::name(reason).as_bytes()));
                field(out, None);
            }
        }
    }
}

impl Rows for OrderRows {
    fn len(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.fields.len() + self.rows.len() * size_of::<Row>() + self.traces.len() * size_of::<(usize, Trace)>()
    }

    fn clear(&mut self) {
        self.rows.clear();
        self.fields.clear();
        self.products.clear();
        self.product_numbers.clear();
        self.traces.clear();
    }

    fn part(&self, rows: Range<usize>) -> Self {
        let start = self.start(rows.start);
        let end = rows.end.checked_sub(1).map_or(0, |last| self.rows[last].end).max(start);
        let moved = |row: &Row| Row { end: row.end - start, ..row.clone() };
        let traces = self.traces.iter().filter(|(row, _)| rows.contains(row));
        OrderRows {
            traces: traces.map(|(row, trace)| (row - rows.start, *trace)).collect(),
            rows: self.rows[rows].iter().map(moved).collect(),
            fields: self.fields[start..end].to_vec(),
            products: self.products.clone(),
            product_numbers: self.product_numbers.clone(),
        }
    }
}

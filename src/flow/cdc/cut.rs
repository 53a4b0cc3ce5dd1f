//! How many rows are one statement.

use std::ops::Range;

/// What the rows of one statement have of values, but for a row that has more alone: PostgreSQL takes no message of a GiB,
/// and the client makes a copy of each.
pub const STATEMENT_BYTES_MAX: usize = 64 << 20;

/// Rows in their order, by what each has of values, in parts of no more than that.
pub fn cut(sizes: impl Iterator<Item = usize>, bytes_max: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut bytes = 0;
    for (row, size) in sizes.enumerate() {
        bytes += size;
        match parts.last_mut() {
            Some(part) if bytes <= bytes_max => part.end = row + 1,
            _ => {
                parts.push(row..row + 1);
                bytes = size;
            }
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_part_is_larger_than_it_may_be_but_for_one_row_that_is() {
        let cut = |sizes: &[usize]| cut(sizes.iter().copied(), 10);
        assert!(cut(&[]).is_empty());
        assert_eq!(cut(&[4, 6, 1, 9, 0]), [0..2, 2..5]);
        assert_eq!(cut(&[30, 1, 30, 30, 10, 10]), [0..1, 1..2, 2..3, 3..4, 4..5, 5..6]);
        assert_eq!(cut(&[0, 0, 11, 0, 10]), [0..2, 2..3, 3..5]);
    }
}

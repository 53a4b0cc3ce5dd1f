//! The values of a change, as texts: of a whole row, of its key, and of what is kept beside it.

use super::Cdc;
use super::message::{fill_extra, hide};
use super::naming::Mask;
use super::rows::CdcRows;
use super::shape::{self, Content, Shape};
use crate::decode::debezium::{Change, Fields, Image, Written, unfolded_max};
use crate::fault::Cause;
use crate::record::Record;

/// Of the texts of a row: half of what PostgreSQL takes in one message. Also keeps a buffer, which closes at its own limit
/// and then holds one row more, within what 32 bits can count.
pub const ROW_BYTES_MAX: usize = 512 << 20;
/// Of those of a key alone. No index of PostgreSQL takes as much.
const KEY_BYTES_MAX: usize = 16 << 20;

/// For what values are made room: a key alone, or a whole row.
#[derive(Clone, Copy)]
pub enum Room {
    Key,
    Row,
}

impl Cdc {
    /// Values of a whole row. None where the shape is not that of the row.
    pub fn fill(
        &self,
        record: &Record<'_>,
        shape: &Shape,
        change: &Change<'_>,
        image: &Image<'_>,
        rows: &mut CdcRows,
    ) -> Result<Option<u32>, Cause> {
        let start = rows.values(shape.columns.len());
        let limit = text_limit(rows, image);
        let mut next = 0;
        for (name, json) in &image.fields {
            let at = match shape.fields.get(next) {
                Some(field) if field.name == *name => Some(next),
                _ => shape.field(name),
            };
            let Some(at) = at else { return Ok(None) };
            next = at + 1;
            if let Some(column) = shape.fields[at].column {
                if !self.fill_value(shape, column, json, start, rows)? {
                    return Ok(None);
                }
                check_text(rows, limit)?;
            }
        }
        // With a schema a field that is not there is null; without one it is no field of this row.
        if shape.is_guess && image.fields.len() != shape.fields.len() {
            return Ok(None);
        }
        self.fill_beside(record, shape, change, start, rows);
        Ok(Some(start))
    }

    /// What is kept beside the row whose values begin there.
    pub fn fill_beside(&self, record: &Record<'_>, shape: &Shape, change: &Change<'_>, start: u32, rows: &mut CdcRows) {
        for (index, column) in shape.columns.iter().enumerate() {
            let slot = start + index as u32;
            let at = rows.text_len();
            let text = rows.text();
            match &column.content {
                Content::Extra(extra) => {
                    if fill_extra(*extra, &self.moment, record, change, text) {
                        rows.set(slot, at);
                    }
                }
                Content::Deleted => {
                    text.extend_from_slice(b"false");
                    rows.set(slot, at);
                }
                Content::Field(_) | Content::Masked(..) => {}
            }
        }
    }

    /// False where the value is not what its field's kind, a guess, has taken it for.
    fn fill_value(
        &self,
        shape: &Shape,
        column: usize,
        json: &str,
        start: u32,
        rows: &mut CdcRows,
    ) -> Result<bool, Cause> {
        let content = &shape.columns[column].content;
        let slot = start + column as u32;
        let kind = match content {
            Content::Field(Some(kind)) | Content::Masked(kind, _) => kind,
            Content::Field(None) => return Ok(json == "null"),
            Content::Extra(_) | Content::Deleted => return Ok(true),
        };
        let at = rows.text_len();
        match kind.write(json, &self.modes, rows.text()) {
            Ok(Written::Value) => {
                if let Content::Masked(_, mask) = content {
                    hide(mask, at, rows.text());
                    if *mask == Mask::Null {
                        return Ok(true);
                    }
                }
                rows.set(slot, at);
            }
            Ok(Written::Null) => {}
            Ok(Written::Unchanged) => rows.set_unchanged(slot),
            Err(_) if shape.is_guess && self.known.may_become(kind, &shape.columns[column].name, json) => {
                return Ok(false);
            }
            Err(cause) => {
                let text = format!("column \"{}\": {}", shape::shown(&shape.columns[column].name), cause.text);
                return Err(Cause::new(cause.code, text));
            }
        }
        Ok(true)
    }

    /// Values of the key alone, in its order: of the record's key, or of the image that the row had. None where neither
    /// has them.
    pub fn fill_key(
        &self,
        shape: &Shape,
        key: &Fields<'_>,
        image: Option<&Image<'_>>,
        room: Room,
        rows: &mut CdcRows,
    ) -> Result<Option<u32>, Cause> {
        let all =
            |fields: &Fields<'_>| shape.key_fields.iter().all(|name| fields.iter().any(|(field, _)| field == name));
        let fields = match (all(key), image) {
            (true, _) => key,
            (false, Some(image)) => &image.fields,
            (false, None) => return Ok(None),
        };
        let start = rows.values(match room {
            Room::Key => shape.key.len(),
            Room::Row => shape.columns.len(),
        });
        let limit = rows.text_len() + KEY_BYTES_MAX;
        for (number, (name, column)) in shape.key_fields.iter().zip(&shape.key).enumerate() {
            let Some((_, json)) = fields.iter().find(|(field, _)| field == name) else { return Ok(None) };
            let Some(kind) = shape.columns[*column].kind() else { return Ok(None) };
            let at = rows.text_len();
            if kind.write(json, &self.modes, rows.text())? != Written::Value {
                let text = format!("the key's field \"{}\" has no value", shape::shown(name));
                return Err(Cause::new("cdc.key", text));
            }
            if let Content::Masked(_, mask) = &shape.columns[*column].content {
                hide(mask, at, rows.text());
            }
            let place = match room {
                Room::Key => number,
                Room::Row => *column,
            };
            rows.set(start + place as u32, at);
            check_text(rows, limit)?;
        }
        Ok(Some(start))
    }
}

/// Up to where the values of an image may go.
fn text_limit(rows: &CdcRows, image: &Image<'_>) -> usize {
    rows.text_len() + unfolded_max(image.len).min(ROW_BYTES_MAX)
}

pub fn check_text(rows: &CdcRows, limit: usize) -> Result<(), Cause> {
    match rows.text_len() <= limit {
        true => Ok(()),
        false => Err(Cause::new("cdc.value", "the row is too large as a text")),
    }
}

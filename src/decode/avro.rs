use crate::fault::*;
use crate::pg::copy::CopyRows;
pub struct Column {
    pub field: &'static str,
    pub kind: Kind,
    pub not_null: bool,
}
pub enum Kind {
    Timestamp,
    Text,
    Varchar { chars_max: usize },
    Int4,
}
pub struct AvroPlans;
impl AvroPlans {
    pub fn new(_: &str, _: &[&str], _: &[Column]) -> Result<Self, Cause> {
        Ok(AvroPlans)
    }
    pub fn transcode(&self, _: &[u8], _: &mut CopyRows) -> Result<(), Fault> {
        Ok(())
    }
}

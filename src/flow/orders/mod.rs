//! Orders: JSON in, stock reserved under row locks, one row of `orders` for each, reserved or rejected.

pub mod desk;
pub mod order;

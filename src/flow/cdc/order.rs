//! In which order tables are written to that refer to each other by foreign keys which are looked at at once, as they are
//! unless somebody says otherwise: rows that refer to others go before these, and come behind them.

use std::cmp::Reverse;
use std::collections::HashMap;

/// Places of tables, by the numbers under which they are followed: who refers to others stands before these. `references`:
/// who refers, and to whom. None where none of them refers to another one, and any order will do.
pub fn children_first(targets: &[Option<i32>], references: &[(i32, i32)]) -> Option<Vec<usize>> {
    let places: HashMap<i32, usize> =
        targets.iter().enumerate().filter_map(|(place, target)| Some(((*target)?, place))).collect();
    let place = |(child, parent): &(i32, i32)| Some((*places.get(child)?, *places.get(parent)?));
    let here: Vec<(usize, usize)> = references.iter().filter_map(place).collect();
    if here.is_empty() {
        return None;
    }
    let mut depths = vec![0; targets.len()];
    // In a circle each stands before all others, and there is no end: there are no more steps than tables.
    for _ in 0..targets.len() {
        let mut is_done = true;
        for (child, parent) in &here {
            if depths[*child] <= depths[*parent] {
                depths[*child] = depths[*parent] + 1;
                is_done = false;
            }
        }
        if is_done {
            break;
        }
    }
    let mut order: Vec<usize> = (0..targets.len()).collect();
    order.sort_by_key(|place| Reverse(depths[*place]));
    Some(order)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refers_stands_before_those_it_refers_to_and_a_circle_has_an_end() {
        let order = |references: &[(i32, i32)]| children_first(&[Some(10), None, Some(12), Some(13)], references);
        assert_eq!((order(&[]), order(&[(13, 99)])), (None, None));
        assert_eq!(order(&[(13, 12), (12, 10), (13, 99)]), Some(vec![3, 2, 0, 1]));
        assert_eq!(order(&[(10, 13)]), Some(vec![0, 1, 2, 3]));
        assert_eq!(order(&[(12, 13), (13, 12)]).map(|order| order.len()), Some(4));
    }
}

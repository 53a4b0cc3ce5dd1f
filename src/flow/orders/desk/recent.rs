//! What was dealt with lately, so much of it and no more: the newest half of what fits is always there.

use std::collections::HashMap;
use std::hash::Hash;

/// Two generations: when the young one is full it becomes the old one, and the old one is forgotten.
pub struct Recent<K, V> {
    young: HashMap<K, V>,
    old: HashMap<K, V>,
    generation_max: usize,
}

impl<K: Hash + Eq, V> Recent<K, V> {
    pub fn new(entries_max: usize) -> Self {
        Recent { young: HashMap::new(), old: HashMap::new(), generation_max: entries_max / 2 }
    }

    pub fn get(&self, key: &K) -> Option<&V> {
        self.young.get(key).or_else(|| self.old.get(key))
    }

    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        match self.young.get_mut(key) {
            Some(value) => Some(value),
            None => self.old.get_mut(key),
        }
    }

    /// Replaces what was known under the key.
    pub fn insert(&mut self, key: K, value: V) {
        if self.young.len() >= self.generation_max && !self.young.contains_key(&key) {
            // The map keeps its memory and goes on as the young one.
            std::mem::swap(&mut self.young, &mut self.old);
            self.young.clear();
        }
        self.old.remove(&key);
        self.young.insert(key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_keeps_the_newest_half() {
        let mut recent = Recent::new(100);
        for number in 0..10_000u32 {
            recent.insert(number, number);
            recent.insert(number, number + 1);
            assert!(recent.young.len() + recent.old.len() <= 100);
            let newest = number.saturating_sub(49)..=number;
            assert!(newest.into_iter().all(|known| recent.get(&known) == Some(&(known + 1))), "{number}");
        }
        assert_eq!(recent.get(&9_800), None);
        *recent.get_mut(&9_960).unwrap() = 7;
        assert_eq!(recent.get(&9_960), Some(&7));
        assert!(recent.young.capacity() + recent.old.capacity() < 500);
    }
}

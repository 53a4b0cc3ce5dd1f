//! Who gets what: orders in the order of their arrival against the stock of their products. Pure: what is read and
//! written here was locked, or guessed, by others.
//!
//! A product's stock lies on one shelf, or on several, so that several writers can take from it at once. A group of
//! orders takes from one shelf of each product, its *home*; where that is not enough, the other shelves are emptied
//! onto it, and what is left is spread over all of them again.

/// Stock is spread anew only where each shelf would then serve so many groups like the one that found too little.
const SPREAD_GROUPS: i64 = 4;

/// One row of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shelf {
    pub bucket: i16,
    pub available: i64,
    pub reserved: i64,
}

/// What an order asks of the stock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// Its number in the stock.
    pub product: usize,
    pub quantity: i64,
}

/// Why an order gets nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    UnknownProduct,
    InsufficientStock,
}

impl Reason {
    pub fn name(self) -> &'static str {
        match self {
            Reason::UnknownProduct => "unknown_product",
            Reason::InsufficientStock => "insufficient_stock",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Reserved { bucket: i16 },
    Rejected(Reason),
}

impl Verdict {
    pub fn status(self) -> &'static str {
        match self {
            Verdict::Reserved { .. } => "reserved",
            Verdict::Rejected(_) => "rejected",
        }
    }
}

/// The shelves of one product. None of them where there is no such product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Product {
    shelves: Vec<Shelf>,
    home: usize,
}

impl Product {
    fn available(&self) -> i64 {
        self.shelves.iter().map(|shelf| shelf.available).sum()
    }
}

/// The stock of the products that a group of orders asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stock {
    products: Vec<Product>,
}

impl Stock {
    /// Of so many products, all unknown until they get a shelf.
    pub fn new(products: usize) -> Self {
        Stock { products: vec![Product::default(); products] }
    }

    pub fn add(&mut self, product: usize, shelf: Shelf) {
        self.products[product].shelves.push(shelf);
    }

    /// Chooses a home for each product, beginning with the `turn`-th shelf, that serves every order as well as all
    /// shelves together would. False where some product has none such, and where others would serve only because the
    /// stock lies unevenly: spread, it lets more writers at it at once.
    pub fn settle(&mut self, turn: usize, needs: &[Need]) -> bool {
        let mut wanted = vec![0i64; self.products.len()];
        needs.iter().for_each(|need| wanted[need.product] += need.quantity);
        self.products.iter_mut().zip(wanted).all(|(product, wanted)| {
            let count = product.shelves.len();
            let total = product.available();
            let serves = |index: &usize| product.shelves[*index].available >= wanted.min(total);
            match (0..count).position(|step| serves(&((turn + step) % count))) {
                Some(step) if step > 0 && total / count as i64 >= wanted.saturating_mul(SPREAD_GROUPS) => false,
                Some(step) => {
                    product.home = (turn + step) % count;
                    true
                }
                None => count == 0,
            }
        })
    }

    /// Keeps the homes only: what others may take from meanwhile is not looked at.
    pub fn keep_homes(&mut self) {
        for product in self.products.iter_mut().filter(|product| !product.shelves.is_empty()) {
            product.shelves = vec![product.shelves[product.home]];
            product.home = 0;
        }
    }

    /// Empties all other shelves onto the home.
    pub fn gather(&mut self, turn: usize) {
        for product in self.products.iter_mut().filter(|product| !product.shelves.is_empty()) {
            let total = product.available();
            product.home = turn % product.shelves.len();
            product.shelves.iter_mut().for_each(|shelf| shelf.available = 0);
            product.shelves[product.home].available = total;
        }
    }

    /// Spreads what is left over all shelves.
    pub fn spread(&mut self) {
        for product in &mut self.products {
            let (total, count) = (product.available(), product.shelves.len() as i64);
            for (index, shelf) in product.shelves.iter_mut().enumerate() {
                shelf.available = total / count + i64::from((index as i64) < total % count);
            }
        }
    }

    /// Takes from the homes what the orders get, in their order.
    pub fn decide(&mut self, needs: &[Need]) -> Vec<Verdict> {
        let decide = |need: &Need| {
            let product = &mut self.products[need.product];
            match product.shelves.get_mut(product.home) {
                None => Verdict::Rejected(Reason::UnknownProduct),
                Some(home) if home.available < need.quantity => Verdict::Rejected(Reason::InsufficientStock),
                Some(home) => {
                    home.available -= need.quantity;
                    home.reserved += need.quantity;
                    Verdict::Reserved { bucket: home.bucket }
                }
            }
        };
        needs.iter().map(decide).collect()
    }

    /// Every shelf, with the number of its product.
    pub fn shelves(&self) -> impl Iterator<Item = (usize, Shelf)> {
        let of = |(number, product): (usize, &'_ Product)| {
            product.shelves.iter().map(move |shelf| (number, *shelf)).collect::<Vec<_>>()
        };
        self.products.iter().enumerate().flat_map(of)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn stock(products: &[Vec<(i64, i64)>]) -> Stock {
        let mut stock = Stock::new(products.len());
        for (number, shelves) in products.iter().enumerate() {
            for (bucket, (available, reserved)) in shelves.iter().enumerate() {
                stock.add(number, Shelf { bucket: bucket as i16, available: *available, reserved: *reserved });
            }
        }
        stock
    }

    /// The rule in its plainest form: each product is one number.
    fn judge(products: &[Vec<(i64, i64)>], needs: &[Need]) -> Vec<&'static str> {
        let mut left: Vec<Option<i64>> = products
            .iter()
            .map(|shelves| (!shelves.is_empty()).then(|| shelves.iter().map(|(available, _)| available).sum()))
            .collect();
        let judge = |need: &Need| match &mut left[need.product] {
            None => "unknown_product",
            Some(left) if *left < need.quantity => "insufficient_stock",
            Some(left) => {
                *left -= need.quantity;
                "reserved"
            }
        };
        needs.iter().map(judge).collect()
    }

    fn words(verdicts: &[Verdict]) -> Vec<&'static str> {
        let word = |verdict: &Verdict| match verdict {
            Verdict::Reserved { .. } => "reserved",
            Verdict::Rejected(reason) => reason.name(),
        };
        verdicts.iter().map(word).collect()
    }

    #[test]
    fn stock_that_lies_unevenly_is_spread_while_that_helps_and_no_longer() {
        let need = [Need { product: 0, quantity: 10 }];
        let settles = |shelves: &[i64], turn| {
            stock(&[shelves.iter().map(|available| (*available, 0)).collect()]).settle(turn, &need)
        };
        assert!(settles(&[100, 0], 0), "its own shelf serves it");
        assert!(!settles(&[100, 0], 1), "five groups could be served by each");
        assert!(settles(&[70, 0], 1), "too little is left to be spread");
    }

    proptest! {
        #[test]
        fn both_ways_decide_as_one_shelf_would_and_the_books_stay_right(
            products in prop::collection::vec(prop::collection::vec((0i64..30, 0i64..30), 0..4), 1..4),
            needs in prop::collection::vec((0usize..4, 1i64..12), 0..40),
            turn in 0usize..8,
        ) {
            let needs: Vec<Need> = needs
                .into_iter()
                .map(|(product, quantity)| Need { product: product % products.len(), quantity })
                .collect();
            let expected = judge(&products, &needs);
            let before = stock(&products);
            let sums = |stock: &Stock, product: usize| {
                let of = stock.shelves().filter(|(number, _)| *number == product);
                of.fold((0, 0), |(a, r), (_, shelf)| (a + shelf.available, r + shelf.reserved))
            };

            let mut pooled = before.clone();
            pooled.gather(turn);
            prop_assert_eq!(&words(&pooled.decide(&needs)), &expected);
            pooled.spread();
            for product in 0..products.len() {
                let taken: i64 = needs.iter().zip(&expected)
                    .filter(|(need, word)| need.product == product && **word == "reserved")
                    .map(|(need, _)| need.quantity).sum();
                let (available, reserved) = sums(&before, product);
                prop_assert_eq!(sums(&pooled, product), (available - taken, reserved + taken));
                let left: Vec<i64> = pooled.shelves().filter(|(n, _)| *n == product).map(|(_, s)| s.available).collect();
                let (least, most) = (left.iter().min(), left.iter().max());
                prop_assert!(most.zip(least).is_none_or(|(most, least)| most - least <= 1 && *least >= 0));
            }

            let mut homes = before.clone();
            if homes.settle(turn, &needs) {
                homes.keep_homes();
                prop_assert_eq!(&words(&homes.decide(&needs)), &expected);
                prop_assert!(homes.shelves().all(|(_, shelf)| shelf.available >= 0));
            } else {
                prop_assert!(products.iter().any(|shelves| shelves.len() > 1), "one shelf is always home");
            }
        }
    }
}

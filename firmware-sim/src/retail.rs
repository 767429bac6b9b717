//! The retail traffic: line items of real shops' shape, and the products they name. See data/retail/README.md.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use anyhow::{Context, Result};
use flate2::read::GzDecoder;
use serde::Deserialize;

const TRANSACTIONS: &[u8] = include_bytes!("../data/retail/transactions.csv.gz");
const PRODUCTS: &[u8] = include_bytes!("../data/retail/products.csv.gz");

/// One line of one basket. The household's number is in the file and deliberately not here: it is personal data.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Row {
    /// Local time, `2017-11-06T05:08:22`.
    pub ts: String,
    pub store_id: u32,
    pub basket_id: u64,
    pub product_id: u64,
    pub quantity: i64,
    pub cents: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Product {
    pub product_id: u64,
    pub product_category: String,
    pub product_type: String,
    pub package_size: String,
}

/// Every line, in time order.
pub fn rows() -> Result<Vec<Row>> {
    read(TRANSACTIONS).context("reading the embedded transactions")
}

/// Every product by its id; some that are sold have no row.
pub fn products() -> Result<HashMap<u64, Product>> {
    let products: Vec<Product> = read(PRODUCTS).context("reading the embedded products")?;
    Ok(products.into_iter().map(|product| (product.product_id, product)).collect())
}

/// The `count` stores with the most lines, busiest first.
pub fn busiest(rows: &[Row], count: usize) -> Vec<u32> {
    let mut lines: BTreeMap<u32, usize> = BTreeMap::new();
    for row in rows {
        *lines.entry(row.store_id).or_default() += 1;
    }
    let mut stores: Vec<(usize, u32)> = lines.into_iter().map(|(store, lines)| (lines, store)).collect();
    stores.sort_by_key(|(lines, store)| (std::cmp::Reverse(*lines), *store));
    stores.into_iter().take(count).map(|(_, store)| store).collect()
}

/// A scannable in-store code for a product: GS1 prefix 2, the product's id as 11 digits, the check digit (GTIN-13).
pub fn barcode(product_id: u64) -> String {
    let digits = format!("2{product_id:011}");
    let check = check_digit(&digits);
    format!("{digits}{check}")
}

/// GS1's check digit, worked out on the text so that it owes nothing to the code under test.
pub fn check_digit(digits: &str) -> u32 {
    let weighted = digits.chars().rev().zip([3, 1].into_iter().cycle());
    let sum: u32 = weighted.map(|(digit, weight)| digit.to_digit(10).unwrap_or(0) * weight).sum();
    (10 - sum % 10) % 10
}

/// Milliseconds since 1970 of a local time, read as if it were UTC: what a till without a time zone would claim.
pub fn till_ms(ts: &str) -> Option<u64> {
    let (date, time) = ts.split_once('T')?;
    let mut date = date.split('-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let mut time = time.split(':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (time.next()??, time.next()??, time.next()??);
    // Days of the civil calendar since 1970, years counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    u64::try_from(((days * 24 + hour) * 60 + minute) * 60 + second).ok().map(|seconds| seconds * 1000)
}

fn read<T: for<'de> Deserialize<'de>>(gz: &[u8]) -> Result<Vec<T>> {
    let mut text = Vec::new();
    GzDecoder::new(gz).read_to_end(&mut text).context("unpacking")?;
    csv::Reader::from_reader(&text[..]).into_deserialize().collect::<Result<_, _>>().context("parsing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_its_readme_says() {
        let rows = rows().unwrap();
        assert_eq!(rows.len(), 84_736);
        assert!(rows.is_sorted_by(|a, b| a.ts <= b.ts));
        assert_eq!(products().unwrap().len(), 20_636);
        let stores = busiest(&rows, 3);
        assert_eq!(stores, [367, 406, 292]);
        assert_eq!(rows.iter().filter(|row| stores.contains(&row.store_id)).count(), 5_459);
        assert!(rows.iter().any(|row| row.quantity == 0) && rows.iter().any(|row| row.quantity > 9_999));
    }

    #[test]
    fn every_product_gets_a_code_that_proto_accepts() {
        for row in rows().unwrap() {
            let code = barcode(row.product_id);
            assert_eq!(code.len(), 13);
            assert_eq!(format!("0{code}"), code.parse::<proto::gtin::Gtin>().unwrap().to_string());
        }
    }

    #[test]
    fn a_till_reads_its_clock_as_utc() {
        assert_eq!(till_ms("1970-01-01T00:00:01"), Some(1_000));
        assert_eq!(till_ms("2017-11-06T05:08:22"), Some(1_509_944_902_000));
        assert_eq!(till_ms("yesterday"), None);
    }
}

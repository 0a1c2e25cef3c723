//! Quantities: `500m`, `1.5Gi`, `2e3`, exactly as Kubernetes reads them, without floating point.

use std::fmt;
use std::str::FromStr;

/// The longest text that is read; the API server's own limit is far above what any real quantity has.
const MAX_TEXT: usize = 64;

/// Why a text is not a quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// It is not a number with one of the suffixes.
    #[error("must be a quantity such as 500m, 2, 1.5Gi or 1e3")]
    Form,
    /// It is larger than 2^63-1.
    #[error("is too large: more than 2^63-1")]
    Large,
}

/// A quantity in thousandths, rounded up; larger than any that Kubernetes allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(i128);

/// The largest magnitude, in thousandths.
const MAX_MILLI: i128 = (i64::MAX as i128) * 1000;

impl Quantity {
    /// In thousandths: `500m` is 500, `1` is 1000.
    pub const fn milli(self) -> i128 {
        self.0
    }

    /// In whole units, rounded up; negative ones are 0.
    pub fn units(self) -> u64 {
        u64::try_from((self.0 + 999).div_euclid(1000)).unwrap_or(0)
    }

    /// In thousandths, negative ones are 0.
    pub fn milli_units(self) -> u64 {
        u64::try_from(self.0).unwrap_or(if self.0 < 0 { 0 } else { u64::MAX })
    }

    /// Reads the value of a resource.
    ///
    /// # Errors
    /// If it is not a quantity.
    pub fn of(quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity) -> Result<Self, QuantityError> {
        quantity.0.parse()
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.len() > MAX_TEXT || !text.is_ascii() {
            return Err(QuantityError::Form);
        }
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest.bytes().position(|b| !b.is_ascii_digit() && b != b'.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError::Form);
        }
        let scale = Scale::parse(suffix)?;
        let mut digits = String::with_capacity(number.len());
        digits.push_str(whole);
        digits.push_str(fraction);
        let digits = digits.trim_start_matches('0');
        if digits.is_empty() {
            return Ok(Self(0));
        }
        let places = i32::try_from(fraction.len()).map_err(|_| QuantityError::Form)?;
        let value = scale.milli(digits, places)?;
        Ok(Self(if negative { -value } else { value }))
    }
}

/// What a suffix multiplies by.
enum Scale {
    /// A power of two.
    Binary(u32),
    /// A power of ten.
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Result<Self, QuantityError> {
        Ok(match suffix {
            "n" => Self::Decimal(-9),
            "u" => Self::Decimal(-6),
            "m" => Self::Decimal(-3),
            "" => Self::Decimal(0),
            "k" => Self::Decimal(3),
            "M" => Self::Decimal(6),
            "G" => Self::Decimal(9),
            "T" => Self::Decimal(12),
            "P" => Self::Decimal(15),
            "E" => Self::Decimal(18),
            "Ki" => Self::Binary(10),
            "Mi" => Self::Binary(20),
            "Gi" => Self::Binary(30),
            "Ti" => Self::Binary(40),
            "Pi" => Self::Binary(50),
            "Ei" => Self::Binary(60),
            exponent => {
                let number = exponent.strip_prefix(['e', 'E']).ok_or(QuantityError::Form)?;
                let digits = number.strip_prefix(['+', '-']).unwrap_or(number);
                if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                    return Err(QuantityError::Form);
                }
                // An exponent that does not fit is as good as infinite (or as zero).
                let limit = if number.starts_with('-') { -1000 } else { 1000 };
                Self::Decimal(number.parse::<i32>().unwrap_or(limit).clamp(-1000, 1000))
            }
        })
    }

    /// `digits` × 10^-places × this, in thousandths, rounded up.
    fn milli(&self, digits: &str, places: i32) -> Result<i128, QuantityError> {
        // More digits than this are beyond the limit whatever the scale, or a fraction too fine to matter.
        const MAX_DIGITS: usize = 30;
        let (digits, places, inexact) = if digits.len() > MAX_DIGITS {
            let cut = digits.len() - MAX_DIGITS;
            let (kept, rest) = digits.split_at(MAX_DIGITS);
            let cut = i32::try_from(cut).map_err(|_| QuantityError::Form)?;
            (kept, places - cut, rest.bytes().any(|b| b != b'0'))
        } else {
            (digits, places, false)
        };
        let mut value: i128 = digits.parse().map_err(|_| QuantityError::Form)?;
        let mut exponent = 3 - places;
        match self {
            Self::Decimal(n) => exponent += n,
            Self::Binary(bits) => value = value.checked_mul(1_i128 << bits).ok_or(QuantityError::Large)?,
        }
        let mut up = inexact;
        while exponent < 0 && value > 0 {
            up |= value % 10 != 0;
            value /= 10;
            exponent += 1;
        }
        for _ in 0..exponent.max(0) {
            value = value.checked_mul(10).filter(|v| *v <= MAX_MILLI).ok_or(QuantityError::Large)?;
        }
        value += i128::from(up);
        if value > MAX_MILLI { Err(QuantityError::Large) } else { Ok(value) }
    }
}

impl fmt::Display for Quantity {
    /// The canonical text of the value: whole units where there are no thousandths, otherwise thousandths.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 % 1000 == 0 { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn milli(text: &str) -> i128 {
        text.parse::<Quantity>().unwrap().milli()
    }

    #[test]
    fn quantities_are_read_as_kubernetes_reads_them() {
        for (text, expected) in [
            ("0", 0),
            ("1", 1000),
            ("500m", 500),
            ("1.5", 1500),
            (".5", 500),
            ("5.", 5000),
            ("+2", 2000),
            ("-2", -2000),
            ("2k", 2_000_000),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("1E3", 1_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
            ("12e-1", 1200),
            ("0.1m", 1),
            ("1u", 1),
            ("1n", 1),
            ("0.0000000000000000000000000000000000000000000000000000001", 1),
            ("9223372036854775807", MAX_MILLI),
            ("7Ei", 7 * (1_i128 << 60) * 1000),
        ] {
            assert_eq!(milli(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", ".", "-", "m", "1 Gi", "1gi", "1KiB", "0x10", "1e", "1e+", "e3", "1.2.3", "--1", "ä", "1Kii"]
        {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Form), "{text}");
        }
        for text in ["9223372036854775808", "8Ei", "1e19", "1e999999999999", "10E"] {
            assert_eq!(text.parse::<Quantity>(), Err(QuantityError::Large), "{text}");
        }
    }

    #[test]
    fn parts_of_units_round_up() {
        assert_eq!("1m".parse::<Quantity>().unwrap().units(), 1);
        assert_eq!("1001m".parse::<Quantity>().unwrap().units(), 2);
        assert_eq!("-1".parse::<Quantity>().unwrap().units(), 0);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,80}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn a_printed_quantity_reads_back(whole in -1_000_000_i64..1_000_000, suffix in "(|m|k|Ki|Mi|e2|u)") {
            let quantity: Quantity = format!("{whole}{suffix}").parse().unwrap();
            prop_assert_eq!(quantity.to_string().parse::<Quantity>().unwrap(), quantity);
        }
    }
}

//! What a watch has told of one kind. Nothing that is missing counts as gone before a list was complete.

use std::collections::BTreeMap;

use kube::runtime::watcher::Event;

/// Objects of one kind, as the last complete list and the changes since then have them.
#[derive(Debug)]
pub struct Listed<K, T> {
    items: BTreeMap<K, T>,
    /// A list that is on its way.
    coming: Option<BTreeMap<K, T>>,
    complete: bool,
}

impl<K: Ord, T> Default for Listed<K, T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), coming: None, complete: false }
    }
}

impl<K: Ord, T> Listed<K, T> {
    /// Takes in what the watch tells.
    pub fn take<O>(&mut self, event: Event<O>, read: impl Fn(O) -> (K, T)) {
        match event {
            Event::Init => self.coming = Some(BTreeMap::new()),
            Event::InitApply(object) => {
                let (key, item) = read(object);
                self.coming.get_or_insert_default().insert(key, item);
            }
            Event::InitDone => {
                if let Some(items) = self.coming.take() {
                    self.items = items;
                    self.complete = true;
                }
            }
            Event::Apply(object) => {
                let (key, item) = read(object);
                self.items.insert(key, item);
            }
            Event::Delete(object) => {
                self.items.remove(&read(object).0);
            }
        }
    }

    /// All there are; `None` before the first list was complete.
    pub fn all(&self) -> Option<&BTreeMap<K, T>> {
        self.complete.then_some(&self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(listed: &mut Listed<u32, u32>, event: Event<u32>) {
        listed.take(event, |n| (n % 10, n));
    }

    #[test]
    fn nothing_is_known_before_a_list_is_complete_and_nothing_gone_while_another_is_on_its_way() {
        let mut listed = Listed::default();
        take(&mut listed, Event::Init);
        take(&mut listed, Event::InitApply(1));
        assert!(listed.all().is_none());
        // The list breaks off, and begins anew.
        take(&mut listed, Event::Init);
        take(&mut listed, Event::InitApply(2));
        take(&mut listed, Event::InitDone);
        assert_eq!(listed.all().unwrap().keys().copied().collect::<Vec<_>>(), [2]);
        take(&mut listed, Event::Apply(13));
        take(&mut listed, Event::Init);
        take(&mut listed, Event::InitApply(3));
        assert_eq!(listed.all().unwrap().len(), 2, "what is not in half a list is not gone");
        take(&mut listed, Event::InitDone);
        assert_eq!(listed.all().unwrap(), &BTreeMap::from([(3, 3)]));
        take(&mut listed, Event::Delete(3));
        assert!(listed.all().unwrap().is_empty());
    }
}

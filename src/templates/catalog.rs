//! All templates, each tenant's by their ids.
//!
//! **Runs on**: the router's thread, and main while the store opens. **Owns**: the templates.
//! **Never**: shows one to another tenant; does I/O.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Bound;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use super::template::Template;

/// The most templates of one tenant.
pub const TEMPLATES_MAX: usize = 1000;
/// The most bytes of all tenants' templates: two tenants may each have the most and the longest.
pub const BYTES_MAX: usize = 128 * 1024 * 1024;

/// Templates by tenant and id.
#[derive(Debug, Default)]
pub struct Catalog {
    tenants: AHashMap<Arc<str>, BTreeMap<Box<str>, Rc<Template>>>,
    bytes: usize,
}

/// Why a template is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatalogFault {
    /// The tenant has one of this id.
    Exists,
    /// The tenant has none of this id.
    NotFound,
    /// The tenant has [`TEMPLATES_MAX`].
    TooMany,
    /// All together would be longer than [`BYTES_MAX`].
    TooLarge,
}

/// A part of a tenant's templates.
#[derive(Debug)]
pub struct Page {
    /// In ascending order of their ids.
    pub templates: Vec<Rc<Template>>,
    /// Whether there are more after the last.
    pub has_more: bool,
    /// How many the tenant has.
    pub total: usize,
}

impl Catalog {
    /// A tenant's template of this id.
    #[must_use]
    pub fn find(&self, tenant: &str, id: &str) -> Option<&Rc<Template>> {
        self.tenants.get(tenant)?.get(id)
    }

    /// Whether a tenant may have one more, of so many bytes and with an id of its own.
    ///
    /// # Errors
    ///
    /// It may not.
    pub fn check_new(&self, tenant: &str, id: &str, bytes: usize) -> Result<(), CatalogFault> {
        if let Some(templates) = self.tenants.get(tenant) {
            if templates.contains_key(id) {
                return Err(CatalogFault::Exists);
            }
            if templates.len() >= TEMPLATES_MAX {
                return Err(CatalogFault::TooMany);
            }
        }
        self.check_bytes(bytes, 0)
    }

    /// The template of this id, if one of so many bytes may take its place.
    ///
    /// # Errors
    ///
    /// It may not, or there is none.
    pub fn check_replacement(
        &self,
        tenant: &str,
        id: &str,
        bytes: usize,
    ) -> Result<&Rc<Template>, CatalogFault> {
        let old = self.find(tenant, id).ok_or(CatalogFault::NotFound)?;
        self.check_bytes(bytes, old.bytes()).map(|()| old)
    }

    fn check_bytes(&self, more: usize, less: usize) -> Result<(), CatalogFault> {
        let fits = self.bytes - less + more <= BYTES_MAX;
        if fits { Ok(()) } else { Err(CatalogFault::TooLarge) }
    }

    /// Puts a template in its place, whatever was there.
    pub fn put(&mut self, tenant: &Arc<str>, template: Rc<Template>) {
        self.bytes += template.bytes();
        let templates = self.tenants.entry(Arc::clone(tenant)).or_default();
        if let Some(old) = templates.insert(template.id.clone(), template) {
            self.bytes -= old.bytes();
        }
    }

    /// Takes a template away. Whether it was there.
    pub fn remove(&mut self, tenant: &str, id: &str) -> bool {
        let Some(templates) = self.tenants.get_mut(tenant) else { return false };
        let Entry::Occupied(found) = templates.entry(id.into()) else { return false };
        self.bytes -= found.remove().bytes();
        if templates.is_empty() {
            self.tenants.remove(tenant);
        }
        true
    }

    /// A tenant's templates with ids after `after`: `count` at most, and no more once they have
    /// `bytes_max` together.
    #[must_use]
    pub fn page(&self, tenant: &str, after: Option<&str>, count: usize, bytes_max: usize) -> Page {
        let Some(all) = self.tenants.get(tenant) else {
            return Page { templates: Vec::new(), has_more: false, total: 0 };
        };
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = all.range::<str, _>((start, Bound::Unbounded)).map(|(_, template)| template);
        let mut bytes = 0;
        let mut templates = Vec::new();
        while templates.len() < count
            && bytes < bytes_max
            && let Some(template) = rest.next()
        {
            bytes += template.bytes();
            templates.push(Rc::clone(template));
        }
        Page { templates, has_more: rest.next().is_some(), total: all.len() }
    }

    /// How many there are of all tenants.
    #[must_use]
    pub fn len(&self) -> usize {
        self.tenants.values().map(BTreeMap::len).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tenants.is_empty()
    }
}

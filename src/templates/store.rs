//! The templates of this process, and their changes.
//!
//! **Runs on**: the router's thread. **Owns**: the catalog. **Never**: changes it before the change is
//! where it is to be kept.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use super::catalog::{Catalog, CatalogFault};
use super::template::Template;

/// All templates.
#[derive(Debug, Default)]
pub struct TemplateStore {
    catalog: RefCell<Catalog>,
}

impl TemplateStore {
    /// What there is now. Not to be held over an await.
    pub fn catalog(&self) -> Ref<'_, Catalog> {
        self.catalog.borrow()
    }

    /// Adds a template.
    ///
    /// # Errors
    ///
    /// The tenant has one of its id, or as many as it may.
    pub async fn create(
        &self,
        tenant: &Arc<str>,
        template: Template,
    ) -> Result<Rc<Template>, CatalogFault> {
        self.catalog().check_new(tenant, &template.id, template.bytes())?;
        let template = Rc::new(template);
        self.catalog.borrow_mut().put(tenant, Rc::clone(&template));
        Ok(template)
    }

    /// Puts a template in the place of the one with its id, which was made when that was made.
    ///
    /// # Errors
    ///
    /// There is none of its id, or no room for it.
    pub async fn replace(
        &self,
        tenant: &Arc<str>,
        mut template: Template,
    ) -> Result<Rc<Template>, CatalogFault> {
        template.created_ms = {
            let catalog = self.catalog();
            catalog.check_replacement(tenant, &template.id, template.bytes())?.created_ms
        };
        let template = Rc::new(template);
        self.catalog.borrow_mut().put(tenant, Rc::clone(&template));
        Ok(template)
    }

    /// Takes a template away.
    ///
    /// # Errors
    ///
    /// There is none of this id.
    pub async fn remove(&self, tenant: &Arc<str>, id: &str) -> Result<(), CatalogFault> {
        let was_there = self.catalog.borrow_mut().remove(tenant, id);
        if was_there { Ok(()) } else { Err(CatalogFault::NotFound) }
    }
}

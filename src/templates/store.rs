//! The templates of this process, and their changes: one at a time, on disk first.
//!
//! **Runs on**: the router's thread. **Owns**: the catalog. **Never**: changes it before the change is
//! where it is to be kept, or when its caller has gone meanwhile any less.

use std::cell::{Ref, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::catalog::{Catalog, CatalogFault};
use super::disk::{TemplateFiles, TemplateWriter};
use super::template::Template;
use crate::journal_task::COMMIT_DEADLINE;
use crate::supervise::{Supervisor, spawn_unsupervised};

/// All templates.
#[derive(Debug)]
pub struct TemplateStore {
    catalog: RefCell<Catalog>,
    /// `None`: they end with the process.
    pub(super) writer: Option<TemplateWriter>,
    /// Held by the change that is under way: what it was checked against stays true.
    turn: Semaphore,
}

/// Why a change was not made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeFault {
    /// It may not be made.
    Refused(CatalogFault),
    /// The disk has not taken it, for this reason.
    NotOnDisk(String),
    /// There was a bug: it may have been made.
    Unknown,
}

impl From<CatalogFault> for ChangeFault {
    fn from(fault: CatalogFault) -> Self {
        Self::Refused(fault)
    }
}

impl Default for TemplateStore {
    fn default() -> Self {
        Self { catalog: RefCell::default(), writer: None, turn: Semaphore::new(1) }
    }
}

impl TemplateStore {
    /// With files, what they hold; without, nothing yet. On a runtime for local tasks.
    #[must_use]
    pub fn new(files: Option<TemplateFiles>, supervisor: &Supervisor) -> Rc<Self> {
        let Some(files) = files else { return Rc::default() };
        let (templates, writer) = files.start(supervisor);
        let mut catalog = Catalog::default();
        for (tenant, template) in templates {
            catalog.put(&tenant, Rc::new(template));
        }
        let catalog = RefCell::new(catalog);
        Rc::new(Self { catalog, writer: Some(writer), turn: Semaphore::new(1) })
    }

    /// What there is now. Not to be held over an await.
    pub fn catalog(&self) -> Ref<'_, Catalog> {
        self.catalog.borrow()
    }

    /// Adds a template.
    ///
    /// # Errors
    ///
    /// The tenant has one of its id, or as many as it may; or the disk has not taken it.
    pub async fn create(
        self: &Rc<Self>,
        tenant: &Arc<str>,
        template: Template,
    ) -> Result<Rc<Template>, ChangeFault> {
        let (store, tenant) = (Rc::clone(self), Arc::clone(tenant));
        self.in_turn(async move {
            store.catalog().check_new(&tenant, &template.id, template.bytes())?;
            store.put(&tenant, template).await
        })
        .await
    }

    /// Puts a template in the place of the one with its id, which was made when that was made.
    ///
    /// # Errors
    ///
    /// There is none of its id, or no room for it; or the disk has not taken it.
    pub async fn replace(
        self: &Rc<Self>,
        tenant: &Arc<str>,
        mut template: Template,
    ) -> Result<Rc<Template>, ChangeFault> {
        let (store, tenant) = (Rc::clone(self), Arc::clone(tenant));
        self.in_turn(async move {
            template.created_ms = {
                let catalog = store.catalog();
                let bytes = template.bytes();
                catalog.check_replacement(&tenant, &template.id, bytes)?.created_ms
            };
            store.put(&tenant, template).await
        })
        .await
    }

    /// Takes a template away.
    ///
    /// # Errors
    ///
    /// There is none of this id; or the disk has not taken that.
    pub async fn remove(self: &Rc<Self>, tenant: &Arc<str>, id: &str) -> Result<(), ChangeFault> {
        let (store, tenant, id) = (Rc::clone(self), Arc::clone(tenant), Box::<str>::from(id));
        self.in_turn(async move {
            store.catalog().find(&tenant, &id).ok_or(CatalogFault::NotFound)?;
            if let Some(writer) = &store.writer {
                writer.delete(&tenant, &id).await.map_err(ChangeFault::NotOnDisk)?;
            }
            store.catalog.borrow_mut().remove(&tenant, &id);
            Ok(())
        })
        .await
    }

    /// Ends the files, if there are some. Blocks, for the disk only.
    pub fn close(&self) {
        if let Some(writer) = &self.writer {
            writer.close();
        }
    }

    async fn put(
        &self,
        tenant: &Arc<str>,
        template: Template,
    ) -> Result<Rc<Template>, ChangeFault> {
        if let Some(writer) = &self.writer {
            writer.store(tenant, &template).await.map_err(ChangeFault::NotOnDisk)?;
        }
        let template = Rc::new(template);
        self.catalog.borrow_mut().put(tenant, Rc::clone(&template));
        Ok(template)
    }

    /// Makes a change once those before it are made. One that has begun is made to its end, whether
    /// its caller is still there or not.
    async fn in_turn<T: 'static>(
        self: &Rc<Self>,
        change: impl Future<Output = Result<T, ChangeFault>> + 'static,
    ) -> Result<T, ChangeFault> {
        let store = Rc::clone(self);
        let task = spawn_unsupervised(async move {
            let turn = timeout(COMMIT_DEADLINE, store.turn.acquire()).await;
            let late = |_elapsed| ChangeFault::NotOnDisk("other changes wait for the disk".into());
            let _turn = turn.map_err(late)?.expect("the semaphore is never closed");
            change.await
        });
        task.await.unwrap_or(Err(ChangeFault::Unknown))
    }
}

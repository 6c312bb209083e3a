//! Shows that nothing was sent, without waiting for nothing.

use serde_json::json;

use super::app::{LIMIT, TestApp, id};
use super::receiver::Receiver;

/// A callback at an origin of its own that is sent again and again.
///
/// The dispatcher claims in one step what one look found due. So when the probe comes in again, everything
/// that was due at that time has been claimed too and shows it in its `attempt`.
pub struct Probe {
    receiver: Receiver,
    job: String,
}

impl Probe {
    pub async fn start(app: &TestApp) -> Probe {
        let receiver = Receiver::start().await;
        let job = app.completed(json!({"type": "probe", "callbackUrl": receiver.url("/probe")})).await;
        app.delivery_in(&job, "delivered").await;
        Probe { receiver, job }
    }

    /// Waits until the dispatcher has looked once more.
    pub async fn looked(&self, app: &TestApp) {
        let seen = self.receiver.at("/probe").len();
        let delivery = id(&app.delivery_of(&self.job).await["deliveryId"]);
        app.ask("POST", &format!("/v1/deliveries/{delivery}/retry")).await.ok(202);
        self.receiver.wait("/probe", seen + 1, LIMIT).await;
        app.delivery_in(&self.job, "delivered").await;
    }
}

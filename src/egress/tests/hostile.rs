//! Answers that are slow, endless, oversized or broken.

use super::*;

async fn one(answer: &str, then: Then, ms: u64) -> Exchange {
    let receiver = Receiver::plain(answer, then).await;
    post(&sender(), &receiver.url("/"), within(ms)).await
}

/// Posts with 300 ms to a receiver that falls silent after `answer`, and waits until it is let go.
async fn silent_after(answer: &str) -> Exchange {
    let receiver = Receiver::plain(answer, Then::Hang).await;
    let got = post(&sender(), &receiver.url("/"), within(300)).await;
    assert!(got.duration >= Duration::from_millis(300) && got.duration < Duration::from_secs(3));
    receiver.hung_up().await;
    got
}

#[tokio::test]
async fn a_silent_receiver_is_given_up() {
    for answer in ["", "HTTP/1.1 200 OK\r\nX-Slow: "] {
        let got = silent_after(answer).await;
        assert_eq!(fault(&got), Fault::Timeout(Phase::Head));
        assert!(got.address.is_some() && got.phases.connect_ms.is_some());
    }
}

#[tokio::test]
async fn a_head_that_begins_and_does_not_end_is_given_up_before_the_deadline() {
    let impatient = |ms| {
        let head_budget = Duration::from_millis(ms);
        let names = Names::Fixed(BTreeMap::new());
        Sender::new(Options { policy: dev(), names, head_budget, ..Options::default() }).unwrap()
    };
    let receiver = Receiver::plain("HTTP/1.1 200 OK\r\nX-Slow: ", Then::Hang).await;
    let got = post(&impatient(200), &receiver.url("/"), within(60_000)).await;
    assert_eq!(fault(&got), Fault::Timeout(Phase::Head));
    assert!(got.duration < Duration::from_secs(30), "{:?}", got.duration);
    receiver.hung_up().await;

    // Neither the wait for the first byte nor that for the body is its, nor what comes after an interim answer.
    for (answer, phase) in [
        ("", Phase::Head),
        ("HTTP/1.1 103 Early Hints\r\n\r\n", Phase::Head),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart", Phase::Body),
    ] {
        let receiver = Receiver::plain(answer, Then::Hang).await;
        let got = post(&impatient(1), &receiver.url("/"), within(300)).await;
        assert_eq!(fault(&got), Fault::Timeout(phase), "{answer}");
        assert!(got.duration >= Duration::from_millis(300), "{answer}");
    }
}

#[tokio::test]
async fn a_body_that_does_not_end_in_time_is_a_failure_in_spite_of_its_status() {
    let got = silent_after("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart").await;
    assert_eq!(fault(&got), Fault::Timeout(Phase::Body));
    assert_eq!(&got.body[..], b"part");
    assert_eq!(got.headers.len(), 1);
}

#[tokio::test]
async fn an_endless_body_is_cut_and_the_status_counts() {
    for framing in ["", "Content-Length: 10737418240\r\n"] {
        let head = format!("HTTP/1.1 200 OK\r\n{framing}\r\n");
        let receiver = Receiver::plain(&head, Then::Endless).await;
        let got = post(&sender(), &receiver.url("/"), within(10_000)).await;
        assert_eq!(status(&got), 200);
        assert_eq!(got.body.len(), BODY_KEEP_MAX);
        // What stands in the kernel's buffers is not ours; reading on would show here as gigabytes.
        assert!(receiver.written() < 32 << 20, "{}", receiver.written());
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_does_not_undo_the_status() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npart",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\npart\r\nzz\r\n",
    ] {
        let got = one(answer, Then::Close, 5_000).await;
        assert_eq!((status(&got), &got.body[..]), (200, &b"part"[..]));
    }
}

#[tokio::test]
async fn heads_are_bounded_in_fields_and_bytes() {
    let with = |n: usize| format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "A: b\r\n".repeat(n));
    assert_eq!(status(&one(&with(99), Then::Keep, 5_000).await), 200);
    assert_eq!(fault(&one(&with(100), Then::Keep, 5_000).await), Fault::ResponseTooLarge);
    let long = format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(HEAD_MAX));
    assert_eq!(fault(&one(&long, Then::Hang, 5_000).await), Fault::ResponseTooLarge);
    let endless = Receiver::plain("HTTP/1.1 200 OK\r\nA: ", Then::Endless).await;
    let got = post(&sender(), &endless.url("/"), within(5_000)).await;
    assert_eq!(fault(&got), Fault::ResponseTooLarge);
}

#[tokio::test]
async fn broken_connections_and_answers() {
    assert_eq!(fault(&one("", Then::Reset, 5_000).await), Fault::Reset);
    assert_eq!(fault(&one("", Then::Close, 5_000).await), Fault::Reset);
    assert_eq!(fault(&one("HTTP/1.1 2", Then::Close, 5_000).await), Fault::Reset);
    for garbage in ["SSH-2.0-OpenSSH_9.9\r\n\r\n", "HTTP/1.1 abc OK\r\n\r\n", "HTTP/3.7 200 OK\r\n\r\n"] {
        assert_eq!(fault(&one(garbage, Then::Close, 5_000).await), Fault::BadResponse, "{garbage}");
    }
}

#[tokio::test]
async fn interim_and_odd_statuses() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n".repeat(3);
    let got =
        one(&format!("{hints}HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"), Then::Keep, 5_000).await;
    assert_eq!(status(&got), 202);
    for (n, wanted) in [(8, Some(200)), (9, None)] {
        let hints = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(n);
        let got =
            one(&format!("{hints}HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), Then::Keep, 5_000).await;
        match wanted {
            Some(wanted) => assert_eq!(status(&got), wanted),
            None => assert_eq!(fault(&got), Fault::BadResponse, "they are bounded"),
        }
    }
    let switch = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
    assert_eq!(status(&one(switch, Then::Hang, 5_000).await), 101);
    assert_eq!(status(&one("HTTP/1.1 999 Odd\r\nContent-Length: 0\r\n\r\n", Then::Keep, 5_000).await), 999);
}

#[tokio::test]
async fn a_compressed_body_stays_as_it_is() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(&one(answer, Then::Keep, 5_000).await.body[..], b"abc");
}

async fn whole(answer: &str, then: Then) -> Exchange {
    let receiver = Receiver::plain(answer, then).await;
    post(&sender(), &receiver.url("/"), Limits { answer: Answer::Whole(8), ..within(5_000) }).await
}

#[tokio::test]
async fn a_body_that_is_wanted_whole_is_kept_whole_or_shows_that_it_is_longer() {
    let with = |n: usize| format!("HTTP/1.1 200 OK\r\nContent-Length: {n}\r\n\r\n{}", "x".repeat(n));
    assert_eq!(whole(&with(0), Then::Keep).await.body.len(), 0);
    assert_eq!(&whole(&with(8), Then::Keep).await.body[..], b"xxxxxxxx");
    assert_eq!(whole(&with(9), Then::Keep).await.body.len(), 9);
    let endless = whole("HTTP/1.1 200 OK\r\n\r\n", Then::Endless).await;
    assert_eq!((status(&endless), endless.body.len()), (200, 9));
}

#[tokio::test]
async fn half_a_body_that_is_wanted_whole_is_no_answer() {
    let broken = |status: u16| format!("HTTP/1.1 {status} X\r\nContent-Length: 8\r\n\r\nhalf");
    assert_eq!(fault(&whole(&broken(200), Then::Close).await), Fault::Reset);
    let refused = whole(&broken(422), Then::Close).await;
    assert_eq!((status(&refused), &refused.body[..]), (422, &b"half"[..]), "half a reason is one");
}

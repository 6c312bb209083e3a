use super::*;

#[test]
fn a_look_goes_on_where_the_last_one_ended_and_never_stands_still() {
    let now = Millis(10_000);
    let mut looked = Looked { beat: Some(now), ..Looked::default() };
    looked.after(Millis(0), None, now);
    assert_eq!(looked.floor, now.minus(LONGEST_COMMIT), "all was seen: late commits are found again");
    looked.after(Millis(0), Some(Millis(5_000)), now);
    assert_eq!((looked.floor, looked.anew), (Millis(4_999), false), "the same instant may hold more");
    looked.after(Millis(4_999), Some(Millis(5_000)), now);
    assert_eq!((looked.floor, looked.anew), (Millis(5_000), true), "it does: the lanes are looked through");
}

use super::*;

#[test]
fn a_value_of_a_query_is_encoded() {
    assert_eq!(encoded("/queue/a b&é"), "/queue/a%20b%26%C3%A9");
}

#[test]
fn a_table_has_its_numbers_to_the_right() {
    let row = |cells: [&str; 3]| cells.map(str::to_owned);
    let rows = vec![
        row(["QUEUE", "MESSAGES", "KIND"]),
        row(["a", "12", "x"]),
        row(["long.name", "3", "y"]),
    ];
    let expected = "QUEUE      MESSAGES  KIND\na                12  x\nlong.name         3  y";
    assert_eq!(table(rows), expected);
}

#[test]
fn a_message_is_shown_with_its_headers_and_its_body_on_one_line() {
    let message = json!({
        "position": 7, "body_bytes": 4, "priority": 4, "reply_to": "/queue/r",
        "headers": {"a": "1"}, "body": "x\ny",
    });
    assert_eq!(
        message_text(&message),
        "7  4 bytes, priority 4, reply-to /queue/r\n    a: 1\n    x\\ny"
    );
}

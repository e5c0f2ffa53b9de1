"""client.html in Chromium: what people do with messages, members and rooms."""

from __future__ import annotations

import json
import time
from pathlib import Path

from tests.browser.test_page import User, Users, join, run_chatd, say, say_many, url
from tests.support import Daemon, daemon

OWN_ROW = "[...document.querySelectorAll('.row.own')].at(-1)"
LAST_ROW = "[...document.querySelectorAll('.row')].at(-1)"


def use_tool(user: User, row: str, label: str) -> None:
    """Focus a row and click a button of its toolbar."""
    user.tab.evaluate(f"{row}.focus()")
    user.tab.wait(f"document.querySelector('#toolbar [aria-label={json.dumps(label)}]') !== null")
    user.tab.click(f"#toolbar [aria-label={json.dumps(label)}]")


def write(user: User, text: str) -> None:
    """Replace the text in the composer, and send it."""
    user.tab.evaluate("document.querySelector('#message-input').focus()")
    user.tab.evaluate(f"setInput({json.dumps(text)})")
    user.tab.press("Enter")


def both(chat: Daemon, users: Users, room: str) -> tuple[User, User]:
    ada = users.join(url(chat, room), "Ada")
    ben = users.join(url(chat, room), "Ben")
    return ada, ben


def test_edited_message_changes_for_all_and_after_a_reload(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "edit")
    ada.say("frist")
    ben.wait_for("frist")
    ada.wait_for("frist")
    ada.tab.press("ArrowUp")
    ada.wait_for_text("#composer-mode", "Edit your message")
    assert ada.tab.evaluate("document.querySelector('#message-input').value") == "frist"
    write(ada, "first")
    for user in (ada, ben):
        user.wait_for("first (edited)")
    ben.tab.reload()
    ben.wait_until_joined()
    ben.wait_for("first (edited)")
    use_tool(ada, OWN_ROW, "Edit")
    ada.tab.press("Escape")
    ada.tab.wait("document.querySelector('#composer-mode').hidden")
    ada.wait_for("first (edited)")
    assert ben.tab.evaluate(f"{LAST_ROW}.focus(); !document.querySelector('[aria-label=Edit]')")


def test_deleted_message_leaves_a_mark_after_a_question(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "delete")
    ada.say("a secret")
    ben.wait_for("a secret")
    ada.wait_for("a secret")
    use_tool(ada, OWN_ROW, "Delete")
    ada.wait_for_text("#question", "Delete this message?")
    ada.tab.click("#accept")
    for user in (ada, ben):
        user.wait_for("This message was deleted.")
    ben.tab.reload()
    ben.wait_until_joined()
    ben.wait_for("This message was deleted.")
    assert "a secret" not in ben.tab.evaluate("document.body.innerText")


def test_reply_quotes_the_original_and_leads_to_it(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "reply")
    ada.say("What time is it?")
    ben.wait_for("What time is it?")
    use_tool(ben, LAST_ROW, "Reply")
    ben.wait_for_text("#composer-mode", "Reply to Ada: What time is it?")
    write(ben, "noon")
    ada.wait_for("What time is it?", "noon")
    ada.wait_for_text(".reply-to", "Ada: What time is it?")
    ada.tab.click(".reply-to")
    ada.wait_for_text(".row.marked", "What time is it?")
    assert "?m=" in ada.tab.evaluate("location.href")


def test_reaction_is_counted_shown_and_taken_back(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "react")
    ada.say("party tonight")
    ben.wait_for("party tonight")
    use_tool(ben, LAST_ROW, "React")
    ben.tab.wait("document.querySelector('#reaction-picker button') !== null")
    ben.tab.evaluate("document.querySelectorAll('#reaction-picker button')[3].click()")
    for user in (ada, ben):
        user.wait_for_text(".reactions", "🎉 1")
    ada.tab.click(".reactions button")
    ben.wait_for_text(".reactions", "🎉 2")
    assert "you" in ben.tab.evaluate("document.querySelector('.reactions button').title")
    ada.tab.wait("document.querySelector('.reactions [aria-pressed=true]') !== null")
    ada.tab.click(".reactions button")
    ben.wait_for_text(".reactions", "🎉 1")
    ben.tab.click(".reactions button")
    ada.tab.wait("!document.querySelector('.reactions')")


def test_changes_made_while_away_appear_after_a_reconnect(users: Users, tmp_path: Path) -> None:
    arguments = ("--db", str(tmp_path / "chat.db"), "--rate-limit", "0")
    with daemon("chatd", "--port", "0", *arguments) as chat:
        ada, ben = both(chat, users, "away")
        ada.say("one")
        ada.say("two")
        ben.wait_for("one", "two")
        ada.wait_for("one", "two")
        port = chat.address[1]
        chat.process.kill()
        chat.process.wait()
        ada.wait_for_text("#status", "Cannot reach")
        ada.tab.evaluate("toggleReaction(currentRoom, currentRoom.messages[1], '👍')")
        ada.tab.evaluate(
            "setComposing(currentRoom, {action: 'edit', message: currentRoom.messages[0]})"
        )
        write(ada, "one, edited while offline")
        with daemon("chatd", "--port", str(port), *arguments):
            for user in (ada, ben):
                user.wait_until_joined()
                user.wait_for("one, edited while offline (edited)", "two")
                user.wait_for_text(".reactions", "👍 1")


def test_markdown_is_shown_with_elements_of_its_own(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "markdown"), "Ada")
    with join(chat, "markdown", "Ben") as ben:
        say(ben, "markdown", "**bold** *italic* `code` 2*3*4 a_b_c @Ada! http://example.org/a_b_c")
        say(
            ben,
            "markdown",
            "```py\n<b>x</b>\n```\nafter\n> quote\n- one\n- two\n1. first\n2. second",
        )
        say(ben, "markdown", "- no list")
        say(ben, "markdown", "🎉👍")
        ada.tab.wait("document.querySelectorAll('.row').length === 4")
    content = ada.tab.evaluate(
        "Object.fromEntries(['strong', 'em', '.bubble > code', '.mention', 'pre', 'blockquote',"
        " 'ul', 'ol', '.bubble a', '.emoji-only .bubble'].map((selector) => [selector,"
        " [...document.querySelectorAll('#message-list ' + selector)].map((e) => e.innerText)]))"
    )
    assert content["strong"] == ["bold"]
    assert content["em"] == ["italic"]
    assert content[".bubble > code"] == ["code"]
    assert content[".mention"] == ["@Ada"]
    assert content["pre"] == ["<b>x</b>"]
    assert content["blockquote"] == ["quote"]
    assert content["ul"] == ["one\ntwo"]
    assert content["ol"] == ["first\nsecond"]
    assert content[".bubble a"] == ["http://example.org/a_b_c"]
    assert content[".emoji-only .bubble"][0].startswith("🎉👍")
    assert "2*3*4 a_b_c" in ada.texts()[0]


def test_link_to_an_old_message_opens_around_it(chat: Daemon, users: Users) -> None:
    with join(chat, "long", "Ben") as ben:
        say_many(ben, "long", [f"message {number}" for number in range(1200)])
    ada = users.join(url(chat, "long"), "Ada")
    ada.wait_for_text(".row:last-child", "message 1199")
    number = ada.tab.evaluate("currentRoom.messages[0].id") - 800
    ada.tab.go(f"{url(chat, 'long')}?m={number}")
    ada.tab.wait("document.querySelector('.row.marked') !== null")
    text = ada.tab.evaluate("document.querySelector('.row.marked .bubble').innerText")
    shown = int(text.split()[1])
    assert 300 < shown < 400
    assert ada.tab.evaluate("document.querySelectorAll('.row').length") < 301
    # Newer messages load on the way down, without a gap, up to live ones.
    with join(chat, "long", "Cem") as cem:
        say(cem, "long", "a live one")
        for _ in range(60):
            ada.tab.evaluate("messageLog.scrollTop = messageLog.scrollHeight")
            time.sleep(0.05)
            if ada.tab.evaluate(f"{LAST_ROW}?.innerText.includes('a live one')"):
                break
        ids = ada.tab.evaluate("currentRoom.messages.map(({text}) => text)")
        expected = [*(f"message {each}" for each in range(1200)), "a live one"]
        assert ids == expected[expected.index(ids[0]) :]
        assert ada.tab.evaluate("document.querySelectorAll('*').length") < 5000


def test_search_finds_old_messages_and_opens_them(chat: Daemon, users: Users) -> None:
    with join(chat, "find", "Ben") as ben:
        say_many(ben, "find", [f"Straße {number} hay" for number in range(300)])
        say(ben, "find", "needle")
    ada = users.join(url(chat, "find"), "Ada")
    ada.say("/search STRASSE 7")
    ada.wait_for_text("#search-status", "messages")
    ada.wait_for_text("#search-results mark", "7")
    ada.tab.evaluate("document.querySelectorAll('#search-results button')[20].click()")
    ada.tab.wait("document.querySelector('.row.marked') !== null")
    assert "7" in ada.tab.evaluate("document.querySelector('.row.marked .bubble').innerText")
    ada.say("/search nothing like this")
    ada.wait_for_text("#search-status", "No message")
    ada.tab.press("Escape")
    ada.say("/date 2020-01-01")
    ada.tab.wait("currentRoom.messages[0].text.includes('Straße 0 ')")
    ada.tab.click("#jump-to-latest")
    ada.wait_for_text(".row:last-child", "needle")


def test_topic_is_shown_to_all_and_survives_a_reload(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "topical")
    ada.say("/topic Tea and biscuits")
    ben.wait_for_text("#room-topic", "Tea and biscuits")
    ben.tab.reload()
    ben.wait_until_joined()
    ben.wait_for_text("#room-topic", "Tea and biscuits")
    ben.tab.click("#room-topic")
    ben.tab.wait("document.querySelector('#topic-dialog').open")
    ben.tab.type("Coffee")
    ben.tab.press("Enter")
    ada.wait_for_text("#room-topic", "Coffee")


def test_room_dialog_lists_rooms_of_others_and_creates_one(chat: Daemon, users: Users) -> None:
    with join(chat, "books-2", "Ben"), join(chat, "books-10", "Ben"):
        ada = users.join(url(chat, "start"), "Ada")
        ada.tab.press("k", control=True)
        ada.tab.wait("document.querySelector('#rooms-dialog').open")
        ada.tab.type("books")
        ada.wait_for_text("#found-rooms", "books-10")
        ada.tab.evaluate("document.querySelectorAll('#found-rooms button').length === 3 || fail()")
        ada.tab.evaluate("document.activeElement.select()")
        ada.tab.type("books-2")
        ada.tab.wait("document.querySelector('#found-rooms bdi').textContent === 'books-2'")
        ada.tab.press("Enter")
        ada.wait_for_text("#room-title", "books-2")
        ada.wait_for_text("#member-list", "Ben")
        ada.say("/join books-10")
        ada.wait_for_text("#room-title", "books-10")
        names = "[...document.querySelectorAll('#room-list bdi')].map((e) => e.textContent)"
        ada.tab.wait(f'JSON.stringify({names}) === \'["books-2","books-10","start"]\'')
        ada.tab.press("ArrowUp", alt=True)
        ada.wait_for_text("#room-title", "books-2")


def test_direct_messages_reach_the_other_member_only(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "hall")
    eve = users.join(url(chat, "hall"), "Eve")
    ada.wait_for_text("#member-list", "Ben")
    ada.say("/message Ben")
    ada.wait_for_text("#room-title", "Ben")
    ada.wait_until_joined()
    ada.say("between us")
    ada.wait_for("between us")
    ben.wait_for_text("#room-list .direct", "Ada")
    ben.tab.click("#room-list .direct a")
    ben.wait_for("between us")
    ben.say("yes")
    ada.wait_for("between us", "yes")
    room = ada.tab.evaluate("currentRoom.name")
    eve.tab.go(url(chat, room))
    eve.wait_for_text("#history-status", "two members only")
    assert not eve.tab.evaluate("document.body.innerText.includes('between us')")
    assert eve.tab.evaluate("getComputedStyle(document.querySelector('#composer')).display") == (
        "none"
    )


def test_moderator_removes_a_member_and_deletes_messages(users: Users, tmp_path: Path) -> None:
    database = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", "--rate-limit", "0", *database) as chat:
        link = run_chatd("invite", "Mia", "--moderator", *database, "--url", url(chat))
        mia = users.open(link.split()[-1])
        mia.wait_until_joined()
        ben = users.join(url(chat), "Ben")
        ben.say("rude words")
        mia.wait_for("rude words")
        use_tool(mia, LAST_ROW, "Delete")
        mia.tab.click("#accept")
        ben.wait_for("This message was deleted.")
        mia.say("/mute Ben 10m")
        ben.wait_for_text("#notice", "Mia muted Ben for 10 m")
        ben.say("more")
        ben.wait_for_text(".send-error", "muted you")
        mia.say("/ban Ben 1h")
        ben.wait_for_text("#status", "Access refused")
        ben.tab.reload()
        ben.wait_for_text("#history-status, #notice, #status", "")
        ben.tab.wait("document.body.classList.contains('refused')")
        mia.tab.wait("!document.querySelector('#member-list').innerText.includes('Ben')")
        audit = run_chatd("export", "--audit", *database)
        assert [json.loads(line)["action"] for line in audit.splitlines()] == [
            "delete",
            "mute",
            "ban",
        ]


def test_ignored_person_is_hidden_for_this_reader(chat: Daemon, users: Users) -> None:
    ada, ben = both(chat, users, "ignore")
    ben.say("spam")
    ada.wait_for("spam")
    ada.say("/ignore Ben")
    ada.wait_for()
    ben.say("more spam")
    ada.tab.reload()
    ada.wait_until_joined()
    ada.say("quiet here")
    ada.wait_for("quiet here")
    ada.say("/ignore Ben")
    ada.wait_for("spam", "more spam", "quiet here")


def test_later_holder_of_a_name_is_marked_as_another(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "holders"), "Ada")
    for text in ("I am the first", "I am another"):
        with join(chat, "holders", "Cem") as cem:
            say(cem, "holders", text)
            cem.send(json.dumps({"type": "leave", "room": "holders"}))
            ada.tab.wait(f"document.body.innerText.includes({json.dumps(text)})")
    ada.wait_for("I am the first", "I am another")
    senders = "[...document.querySelectorAll('.sender')].map((e) => e.innerText.trim())"
    assert ada.tab.evaluate(senders)[-1].endswith("Cem (2)")
    hues = "[...document.querySelectorAll('.sender')].map((e) => e.style.getPropertyValue('--hue'))"
    assert len(set(ada.tab.evaluate(hues))) == 2


def test_at_sign_and_tab_complete_a_name(chat: Daemon, users: Users) -> None:
    ada, _ = both(chat, users, "complete")
    with join(chat, "complete", "Beatrice Long"):
        ada.wait_for_text("#member-list", "Beatrice")
        ada.tab.evaluate("messageInput.focus()")
        ada.tab.type("hi @be")
        ada.wait_for_text("#completions", "Beatrice Long")
        ada.tab.press("Tab")
        assert ada.tab.evaluate("messageInput.value") == "hi @Beatrice Long "
        ada.tab.press("Enter")
        ada.wait_for_text(".mention", "@Beatrice Long")


def test_back_closes_a_drawer_before_it_leaves_the_room(chat: Daemon, users: Users) -> None:
    ada = users.open("about:blank")
    ada.tab.resize(390, 844, mobile=True)
    ada.tab.go(url(chat, "drawers"))
    ada.enter_name("Ada")
    ada.wait_until_joined()
    ada.tab.click("#show-rooms")
    ada.tab.wait("document.querySelector('#sidebar.open') !== null")
    ada.tab.evaluate("history.back()")
    ada.tab.wait("!document.querySelector('#sidebar.open')")
    ada.wait_for_text("#room-title", "drawers")
    ada.tab.wait("!document.querySelector('main').inert")


def test_reload_without_a_server_shows_the_offline_page(users: Users, tmp_path: Path) -> None:
    arguments = ("--db", str(tmp_path / "chat.db"))
    with daemon("chatd", "--port", "0", *arguments) as chat:
        ada = users.join(url(chat), "Ada")
        ada.tab.wait("navigator.serviceWorker.controller !== null")
        port = chat.address[1]
        chat.process.kill()
        chat.process.wait()
        ada.tab.call("Page.reload")
        ada.wait_for_text("h1", "The chat is offline")
        with daemon("chatd", "--port", str(port), *arguments):
            ada.tab.wait("document.querySelector('#status')?.textContent === 'Connected'")


def test_long_press_shows_the_toolbar_on_a_touch_screen(chat: Daemon, users: Users) -> None:
    ada = users.open("about:blank")
    ada.tab.resize(390, 844, mobile=True)
    ada.tab.call("Emulation.setTouchEmulationEnabled", enabled=True)
    ada.tab.go(url(chat, "touch"))
    ada.enter_name("Ada")
    ada.wait_until_joined()
    with join(chat, "touch", "Ben") as ben:
        say(ben, "touch", "press me")
        ada.wait_for("press me")
    x, y = ada.tab.evaluate(
        "(() => { const r = document.querySelector('.bubble').getBoundingClientRect();"
        " return [r.x + 20, r.y + 10]; })()"
    )
    ada.tab.call("Input.dispatchTouchEvent", type="touchStart", touchPoints=[{"x": x, "y": y}])
    ada.tab.wait("document.querySelector('#toolbar [aria-label=Reply]') !== null")
    ada.tab.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])


def test_unread_rooms_come_first_in_natural_order(chat: Daemon, users: Users) -> None:
    ada = users.join(url(chat, "sort-1"), "Ada")
    for room in ("sort-10", "sort-2"):
        ada.say(f"/join {room}")
        ada.wait_for_text("#room-title", room)
        ada.wait_until_joined()
    names = "[...document.querySelectorAll('#room-list bdi')].map((e) => e.textContent).join()"
    ada.tab.wait(f"{names} === 'sort-1,sort-2,sort-10'")
    with join(chat, "sort-10", "Ben") as ben:
        say(ben, "sort-10", "news")
        ada.tab.wait(f"{names} === 'sort-10,sort-1,sort-2'")
        ada.tab.click("#room-list a")
        ada.wait_for("news")
        ada.tab.wait(f"{names} === 'sort-1,sort-2,sort-10'")


def test_question_mark_lists_keys_and_page_up_scrolls(chat: Daemon, users: Users) -> None:
    with join(chat, "keys-2", "Ben") as ben:
        say_many(ben, "keys-2", [f"message {number}" for number in range(60)])
    ada = users.join(url(chat, "keys-2"), "Ada")
    ada.tab.wait("document.querySelectorAll('.row').length === 50")
    ada.tab.wait("document.activeElement.id === 'message-input'")
    before = ada.tab.evaluate("messageLog.scrollTop")
    ada.tab.press("PageUp")
    ada.tab.wait(f"messageLog.scrollTop < {before} - 100")
    ada.tab.press("?")
    ada.tab.wait("document.querySelector('#help-dialog').open")
    ada.wait_for_text("#help-text", "/search WORDS")
    ada.tab.press("Escape")
    ada.tab.wait("!document.querySelector('#help-dialog').open")


def test_jump_to_the_latest_over_a_lost_connection(users: Users, tmp_path: Path) -> None:
    arguments = ("--db", str(tmp_path / "chat.db"), "--rate-limit", "0")
    with daemon("chatd", "--port", "0", *arguments) as chat:
        with join(chat, "lobby", "Ben") as ben:
            say_many(ben, "lobby", [f"message {number}" for number in range(400)])
        ada = users.join(url(chat), "Ada")
        ada.say("/date 2020-01-01")
        ada.tab.wait("currentRoom.messages[0].text === 'message 0'")
        port = chat.address[1]
        chat.process.kill()
        chat.process.wait()
        ada.wait_for_text("#status", "Cannot reach")
        ada.say("/date 2020-01-01")
        ada.wait_for_text("#notice", "needs a connection")
        ada.tab.click("#jump-to-latest")
        with daemon("chatd", "--port", str(port), *arguments):
            ada.wait_until_joined()
            ada.wait_for_text(".row:last-child", "message 399")
            ada.tab.wait("currentRoom.messages.at(-1).text === 'message 399'")

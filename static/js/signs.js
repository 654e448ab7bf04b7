const WORDS = { connecting: "Connecting", streaming: "Streaming", polling: "Polling", denied: "Denied", closed: "Closed" };

/** Shows the state of the stream where it is seen from another tab: in the title and in the icon. */
export function showSigns(feed, icon) {
  const { title } = document;
  feed.addEventListener("state", ({ detail: { state } }) => {
    document.title = `${WORDS[state]} · ${title}`;
    const href = icon.dataset[state] ?? icon.dataset.connecting;
    if (icon.getAttribute("href") !== href) icon.setAttribute("href", href);
  });
}

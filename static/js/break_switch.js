const MINUTES = 10; // then the server forgets: nobody should wonder next week why the stream is broken

/** A switch that has the server refuse this browser's stream, by a cookie that it honours for the demonstration. */
export function breakSwitch(input, feed) {
  input.addEventListener("change", () => {
    const age = input.checked ? MINUTES * 60 : 0;
    document.cookie = `fault=refuse; path=/; max-age=${age}; samesite=strict`;
    feed.reconnect();
  });
}

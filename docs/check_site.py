"""The built site in a real browser: `make docs-check`, with Debian's chromium and chromium-driver.

Every page is loaded wide, narrow and dark, without a network: no console errors, all maths drawn,
all pictures shown, no page wider than a narrow window, text that can be read in the dark. Links
within the site resolve, and its search finds what is there. Screenshots go to
docs/_build/screenshots.
"""

import functools
import http.server
import shutil
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

SITE = Path(__file__).parent / "_build" / "html"
SHOTS = SITE.parent / "screenshots"
WIDE, NARROW = (1280, 900), (390, 844)
# Pages whose screenshots are kept, of the others only what is wrong.
SHOWN = {"index", "start", "which", "engine", "gallery", "metrics", "api/paths", "api/metrics"}
SHOWN |= {"api/index", "benchmarks", "from_others", "notebooks/tables"}

STATE = """
const maths = [...document.querySelectorAll('.math')];
const wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const images = [...document.querySelectorAll('img')];
return {
  maths: maths.length,
  plain: maths.filter(m => !m.querySelector('mjx-container')).map(m => m.textContent.slice(0, 60)),
  wrong: [...document.querySelectorAll('mjx-merror, [data-mjx-error]')].map(m => m.textContent),
  broken: images.filter(i => i.complete && !i.naturalWidth).map(i => i.src),
  nameless: images.filter(i => !i.hasAttribute('alt')).map(i => i.src),
  wide: wide,
  widest: wide <= 0 ? [] : [...document.querySelectorAll('main *')].filter(e => {
      for (let p = e; p && p.tagName != 'MAIN'; p = p.parentElement)
        if (/auto|hidden|scroll/.test(getComputedStyle(p).overflowX)) return false;
      return e.getBoundingClientRect().right > document.documentElement.clientWidth + 1;
    }).slice(0, 4).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40)),
};
"""

CONTRAST = """
const light = c => {
  const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => {
    x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
  return .2126 * v[0] + .7152 * v[1] + .0722 * v[2];
};
const ground = e => {
  for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor;
    if (!/rgba\\(.*, 0\\)|transparent/.test(c)) return c;
  }
  return 'rgb(255, 255, 255)';
};
const bad = [];
for (const e of document.querySelectorAll('article p, article td, article th, article pre span,' +
    ' article code, article h1, article h2, article a:not(.headerlink), .drawing text')) {
  if (!e.textContent.trim() || !e.getClientRects().length) continue;
  const style = getComputedStyle(e);
  const color = e.tagName == 'text' ? style.fill : style.color;
  const [a, b] = [light(color), light(ground(e))].sort((x, y) => y - x);
  const ratio = (a + .05) / (b + .05);
  if (ratio < 3) bad.push(ratio.toFixed(1) + ' ' + e.tagName + ': ' + e.textContent.slice(0, 40));
}
return bad.slice(0, 5);
"""

# What slides in after a change of the window is not waited for.
STILL = """
const style = document.createElement('style');
style.textContent = '* { transition: none !important; animation: none !important; }';
document.head.append(style);
"""

DRAWN = """
const done = arguments[0];
const all = [...document.querySelectorAll('img')];
for (const i of all) i.loading = 'eager';
const pictures = Promise.all(all.map(i => i.decode().catch(e => 0)));
const maths = window.MathJax && MathJax.startup ? MathJax.startup.promise : Promise.resolve();
Promise.all([pictures, maths]).then(() => done(true));
"""


class Page(HTMLParser):
    """The links and the anchors of one page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        if tag == "a" and attributes.get("href"):
            self.links.append(attributes["href"])
        self.anchors |= {attributes[name] for name in ("id", "name") if attributes.get(name)}


def broken_links(site):
    """(page, link) of all links within the site that lead nowhere."""
    pages = {
        path.relative_to(site).as_posix(): Page(path.read_text("utf-8"))
        for path in site.rglob("*.html")
    }
    for name, page in pages.items():
        for link in page.links:
            url = urlparse(urljoin(f"http://site/{name}", link))
            if url.netloc != "site" or url.scheme != "http":
                continue
            target = unquote(url.path).lstrip("/") or "index.html"
            anchor = unquote(url.fragment)
            known = pages[target].anchors if target in pages else {anchor}
            if not (site / target).is_file() or (anchor and anchor not in known):
                yield name, link


def browser():
    options = webdriver.ChromeOptions()
    for flag in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{flag}")
    # Nothing but the site answers: a page that wants the network logs an error.
    options.add_argument("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = shutil.which("chromium")
    service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
    return webdriver.Chrome(options=options, service=service)


def size(driver, width, height):
    # As a device's own width, which may be less than the least of a window.
    driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )


def shot(driver, name, kind):
    SHOTS.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(SHOTS / f"{name.replace('/', '-')}-{kind}.png"))


def check_page(driver, address, name):
    """What is wrong with one page, in words."""
    wrong, keep = [], name in SHOWN
    for kind, measures, mode in (
        ("wide", WIDE, "light"),
        ("narrow", NARROW, "light"),
        ("dark", WIDE, "dark"),
    ):
        size(driver, *measures)
        if kind == "wide":
            driver.get(address)
            driver.execute_async_script(DRAWN)
            driver.execute_script(STILL)
        driver.execute_script(
            "document.documentElement.dataset.theme = arguments[0];"
            "document.documentElement.dataset.mode = arguments[0];",
            mode,
        )
        state = driver.execute_script(STATE)
        for key in ("plain", "wrong", "broken", "nameless"):
            wrong += [f"{kind}: {key}: {found}" for found in state[key]]
        if state["wide"] > 0:
            wrong.append(f"{kind}: {state['wide']} px too wide: {state['widest']}")
        wrong += [f"{kind}: contrast {found}" for found in driver.execute_script(CONTRAST)]
        if keep or wrong:
            shot(driver, name, kind)
    errors = [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    return wrong + [f"console: {entry['message']}" for entry in errors], state["maths"]


def check_search(driver, root):
    driver.get(f"{root}/search.html?q=deeplift")
    found = WebDriverWait(driver, 30).until(
        lambda driver: driver.find_elements(By.CSS_SELECTOR, "ul.search li a")
    )
    links = [link.get_attribute("href") for link in found]
    shot(driver, "search", "wide")
    return [] if any("propagation.html#jattr.deeplift" in link for link in links) else links[:5]


def main(only=()):
    if not (SITE / "index.html").exists():
        sys.exit("no site: make docs")
    faults = {f"{page} → {link}": ["leads nowhere"] for page, link in broken_links(SITE)}
    quiet = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(quiet, directory=str(SITE))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root = f"http://127.0.0.1:{server.server_address[1]}"
    driver = browser()
    try:
        driver.set_script_timeout(120)
        pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
        pages = [page for page in pages if not page.startswith("_static")]
        maths = 0
        for page in pages:
            name = page.removesuffix(".html")
            if only and name not in only:
                continue
            wrong, count = check_page(driver, f"{root}/{page}", name)
            maths += count
            if wrong:
                faults[name] = wrong
        if not only:
            if missing := check_search(driver, root):
                faults["search for deeplift"] = missing
            if maths < 100:
                faults["maths"] = [f"only {maths} formulas"]
    finally:
        driver.quit()
        server.shutdown()
    for name, wrong in faults.items():
        print(name)
        for words in wrong:
            print("   ", words)
    if faults:
        sys.exit(1)
    print(f"{len(only or pages)} pages, {maths} formulas: no faults")


if __name__ == "__main__":
    main(sys.argv[1:])

from tests.browser.packages import install

install()

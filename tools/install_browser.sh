#!/usr/bin/env bash
# Install Chromium and its driver for the report's browser test, where that needs no question.
# Never fails: without a browser the test skips and says so.
set -u

if command -v chromium >/dev/null && command -v chromedriver >/dev/null; then
    exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
    echo "chromium and chromedriver are not installed (apt install chromium chromium-driver): the browser test will skip"
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
if ! { apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver; } >/dev/null; then
    echo "installing chromium and chromium-driver failed: the browser test will skip"
fi
exit 0

# Sourced by install, uninstall and release: what the installed product is made of, and where it goes.
# shellcheck shell=bash

product_version() { sed -n 's/^  "version": "\(.*\)",$/\1/p' "$root/package.json"; }

# A release tarball has these beside each other and is installed as it is; a checkout has them made first.
is_release() { [[ -f $root/RELEASE ]]; }

# What the program needs at run time, without the tools that build and test it.
run_time_packages() {
  local packages=$lab_cache/cache/runtime-packages digest
  digest=$(sha256sum <"$root/package-lock.json")
  if [[ ! -f $packages/digest || $(<"$packages/digest") != "$digest" ]]; then
    rm -rf "$packages"
    mkdir -p "$packages"
    cp "$root/package.json" "$root/package-lock.json" "$packages/"
    step 'run-time packages' npm --prefix "$packages" ci --omit=dev --ignore-scripts --no-audit --no-fund --prefer-offline
    printf '%s\n' "$digest" >"$packages/digest"
  fi
  run_time_modules=$packages/node_modules
}

# stage FOLDER: the whole product, as a release tarball has it and /opt/ringfence-VERSION is.
stage() {
  local target=$1
  mkdir -p "$target"
  if is_release; then
    cp -a "$root/." "$target/"
    return 0
  fi
  run_time_packages
  mkdir -p "$target/bin" "$target/scripts/lib" "$target/share"
  cp -L "$(command -v node)" "$target/bin/node"
  install -m 755 "$root/packaging/ringfence" "$target/bin/ringfence"
  cp -r "$root/dist" "$root/packaging" "$root/profiles" "$root/docs" "$target/"
  rm -f "$target/dist/.built"
  cp "$root/package.json" "$root/LICENSE" "$root/README.md" "$root/CHANGELOG.md" "$target/"
  cp -r "$run_time_modules" "$target/node_modules"
  cp "$root/scripts/install" "$root/scripts/uninstall" "$target/scripts/"
  cp "$root/scripts/lib/common.sh" "$root/scripts/lib/product.sh" "$target/scripts/lib/"
  node "$root/scripts/shell-pages.ts" "$target/share"
  chmod -R go-w,a+rX "$target"
  product_version >"$target/RELEASE"
}

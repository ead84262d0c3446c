# _wqfs_ask KIND: what wqfs itself says fits here, with what it is.
function _wqfs_ask
  set -l words (commandline -opc)
  type -q $words[1]; or return
  set -l token (commandline -ct | string replace -r '^[\'"]' '' | string replace -ra '\\\\(.)' '$1')
  $words[1] --complete $argv[1] $words[2..] "$token" 2>/dev/null
end

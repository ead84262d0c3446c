# _wqfs_ask KIND: what wqfs itself says fits here.
_wqfs_ask() {
  local line word
  local -a plain shown open
  for line in "${(@f)$("${(@)_wqfs_line[1]/#\~/$HOME}" --complete "$1" "${(@)_wqfs_line[2,-1]}" 2>/dev/null)}"; do
    word=${line%%$'\t'*}
    if [[ -z $word ]]; then
      continue
    elif [[ $word == *= ]]; then
      open+=("$word")
    else
      plain+=("$word")
      shown+=("$word${${line#$word}:+  -- ${line#*$'\t'}}")
    fi
  done
  if [[ $shown == *"  -- "* ]]; then
    compadd -Q -l -d shown -- "${(@q-)plain}"
  else
    compadd -a plain
  fi
  compadd -S '' -a open
}
_wqfs_file_or_scenario() { _wqfs_ask scenario; _files }
_wqfs_dir_or_mount() { _wqfs_ask mount; _files -/ }

# The line as it is, for _wqfs_ask: _arguments changes its words.
_wqfs() {
  local -a _wqfs_line=("${(@Q)words[1,CURRENT-1]}" "${(Q)PREFIX}")
  # The form without the word mount: a folder, and -o.
  if [[ $words[CURRENT-1] == -o ]] && (( ! ${+parameters[_shtab_wqfs_${words[2]}_options]} )); then
    _wqfs_ask options
    return
  fi
  _shtab_wqfs "$@"
  if (( CURRENT == 2 && compstate[nmatches] == 0 )); then _files -/; fi
}

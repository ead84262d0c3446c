
# The form without the word mount: a folder, and -o.
complete -c wqfs -n '_shtab_wqfs_using; and string match -q -- "*/*" (commandline -ct)' -a '(__fish_complete_directories)'
complete -c wqfs -n '_shtab_wqfs_using' -s o -xka '(_wqfs_ask options)' -d 'mount options'

-- Add to the points of a minute and of its ten minutes what a process has counted, once for each serial.
-- keys: minute ten writer
-- takes: serial minutes tens
-- arguments: the serial, how long both points are kept in seconds, and pairs of a field and what to add to it
-- result: none
-- complexity: O(number of pairs)

if call('GET', WRITER) == serial then
    return
end
call('SET', WRITER, serial, 'EX', minutes)
for at = FIRST, #ARGV, 2 do
    call('HINCRBYFLOAT', MINUTE, ARGV[at], ARGV[at + 1])
    call('HINCRBYFLOAT', TEN, ARGV[at], ARGV[at + 1])
end
call('EXPIRE', MINUTE, minutes)
call('EXPIRE', TEN, tens)

# Limits set in the ways that people set them; each line of output is as after the kernel's.
cd /proc/sys/kernel || exit
show() { cat shmmax shmall shmmni shm_rmid_forced msgmax msgmnb msgmni sem auto_msgmni | tr '\n' ' '; echo "$*"; }
show at first
echo 200 > /proc/sys/kernel/shmmni; show echo
echo "250 32000 32 128" > sem; show four numbers
echo 100 200 > sem; show two numbers
echo "1 2 3 32769" > sem; echo $?; show the last out of range
echo 7 8 x 9 > sem; echo $?; show the third wrong
printf 0x10 > msgmnb; show hexadecimal
echo 32000 1024000000 100 32000 | tee sem; show tee
cat <<<77 > msgmni; show cat
/bin/echo 78 > msgmni; show another echo
/bin/echo y > msgmni; echo $?; show another echo of nonsense
sh -c 'echo 79 > msgmni; echo z > msgmni; echo $?'; show sh
sysctl -w kernel.shmmni=300 kernel.shmall=1000000 kernel.sem='250 32000 100 64'; show sysctl
sysctl kernel.shmmni kernel.shmall kernel.shmmax kernel.sem kernel.msgmni
sysctl -w kernel.shmmni=-1; echo $?
dd if=/dev/stdin of=msgmax status=none <<<4096; show dd
exec 5<>shmall; cat <&5; exec 6<>shmall; echo 55 >&6; cat shmall; exec 5>&- 6>&-; show a descriptor to read and write
{ echo 66; echo 67; } > shmall; show two lines
printf 70 >> shmall; show appended
echo 1 | cat > /proc/sys/kernel/auto_msgmni; show auto_msgmni
(cd /; echo 301 > proc/sys/kernel/shmmni); show from elsewhere
python3 - <<'END'
import os
name = "/proc/sys/kernel/msgmnb"
with open(name, "w") as f:
    f.write("1234\n")
print(open(name).read())
try:
    with open(name, "w") as f:
        f.write("12x")
except OSError as e:
    print(e)
f = os.open(name, os.O_RDWR)
print(os.read(f, 100))
os.lseek(f, 0, 0)
print(os.write(f, b"99 98\n"), os.pread(f, 100, 0))
END
show python
ipcs -l
